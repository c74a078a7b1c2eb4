"""Samples that are chosen by their class, or because the model gets them wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from small_runs import QUIET, TinyModule, dataset, fit, make_trainer, train_loader, val_loader
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_saliency import PerClass, SaliencyCallback, Wrong
from lightning_saliency.attribution import Gradient
from lightning_saliency.callbacks.samples.chosen import PerClass as SamePerClass
from lightning_saliency.errors import InputError, SaliencyWarning

pytestmark = QUIET

IMAGES, LABELS = dataset(12, seed=2).tensors


def explained(callback: SaliencyCallback) -> tuple[Tensor, Tensor]:
    known = callback._samples.known
    assert known is not None
    assert known.labels is not None
    return known.images, known.labels


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_first_of_each_class_are_explained(tmp_path: Path, count: int) -> None:
    callback = SaliencyCallback(Gradient(), samples=PerClass(count), on_error="raise")
    fit(tmp_path, callback)
    images, labels = explained(callback)
    # Labels are 0, 1, 2, 3, 4, 0, ...: twelve samples are two of each class and 0 and 1 again.
    expected = [i for i in range(12) if i < 5 * count]
    assert torch.equal(images, IMAGES[expected])
    assert torch.equal(labels, LABELS[expected])


def test_there_is_a_most(tmp_path: Path) -> None:
    callback = SaliencyCallback(Gradient(), samples=PerClass(2, most=3))
    fit(tmp_path, callback)
    assert len(explained(callback)[0]) == 3


class Knows(TinyModule):
    """Its answers are given: right for some pictures alone."""

    wrong = (1, 2, 6, 7, 11)

    def forward(self, images: Tensor) -> Tensor:
        scores = 1e-3 * self.net(images)
        which = (images.flatten(1)[:, None] - IMAGES.flatten(1)).abs().sum(2).argmin(1)
        answers = LABELS[which].clone()
        answers[torch.isin(which, torch.tensor(self.wrong))] += 1
        return scores + 9 * torch.nn.functional.one_hot(answers % 5, 5)


@pytest.mark.parametrize(("count", "places"), [(1, [1]), (3, [1, 2, 6]), (5, [1, 2, 6, 7, 11])])
def test_the_first_that_the_model_gets_wrong_are_explained(
    tmp_path: Path, count: int, places: list[int]
) -> None:
    callback = SaliencyCallback(Gradient(), samples=Wrong(count), on_error="raise")
    trainer = make_trainer(tmp_path, callback)
    trainer.fit(Knows(), train_loader(), val_loader())
    assert torch.equal(explained(callback)[0], IMAGES[places])


def test_fewer_wrong_ones_are_said_and_explained(tmp_path: Path) -> None:
    callback = SaliencyCallback(Gradient(), samples=Wrong(8))
    trainer = make_trainer(tmp_path, callback)
    with pytest.warns(SaliencyWarning, match="Expected 8 samples .* only 5 wrong"):
        trainer.fit(Knows(), train_loader(), val_loader())
    assert len(explained(callback)[0]) == 5


def test_a_model_without_mistakes_is_explained_when_it_makes_some(tmp_path: Path) -> None:
    class Forgets(Knows):
        def on_validation_start(self) -> None:
            self.wrong = (4,) if self.current_epoch == 1 else ()

    callback = SaliencyCallback(Gradient(), samples=Wrong(1), on_error="raise")
    trainer = make_trainer(tmp_path, callback, max_epochs=3)
    trainer.fit(Forgets(), train_loader(), val_loader())
    # They stay, right or wrong.
    assert torch.equal(explained(callback)[0], IMAGES[[4]])


@pytest.mark.parametrize("samples", [PerClass(1), Wrong(2)], ids=str)
def test_they_stay_over_a_resume_and_a_loader_that_shuffles(tmp_path: Path, samples: Any) -> None:
    def run(folder: Path, epochs: int, start: Path | None = None) -> SaliencyCallback:
        callback = SaliencyCallback(Gradient(), samples=samples, on_error="raise")
        saving = ModelCheckpoint(folder, filename="last")
        trainer = make_trainer(
            folder, callback, saving, max_epochs=epochs, enable_checkpointing=True
        )
        shuffled = DataLoader(dataset(12, seed=2), batch_size=4, shuffle=True)
        trainer.fit(Knows(), train_loader(), shuffled, ckpt_path=start)
        return callback

    first = run(tmp_path / "first", 1)
    second = run(tmp_path / "second", 3, tmp_path / "first" / "last.ckpt")
    assert torch.equal(explained(first)[0], explained(second)[0])
    assert second._pictures._strips["gradient"].count == 3


def test_the_training_does_not_notice_that_the_model_is_asked(tmp_path: Path) -> None:
    def weights(*callbacks: Any) -> list[Tensor]:
        trainer = fit(tmp_path / str(len(callbacks)), *callbacks)
        return [p.detach().clone() for p in trainer.lightning_module.state_dict().values()]

    with_it = weights(SaliencyCallback(Gradient(), samples=Wrong(2)))
    for one, other in zip(weights(), with_it, strict=True):
        assert torch.equal(one, other)


def test_labels_are_needed_to_choose_by(tmp_path: Path) -> None:
    callback = SaliencyCallback(
        Gradient(), samples=PerClass(1), target=0, unpack=lambda batch: (batch[0], None)
    )
    module = TinyModule()
    with pytest.raises(
        InputError, match=r"labels in the batch to choose samples=PerClass\(count=1"
    ):
        make_trainer(tmp_path, callback).fit(module, train_loader(), val_loader())
    assert module.steps == 0


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_how_many_is_checked(count: Any) -> None:
    for kind in (PerClass, Wrong):
        with pytest.raises(InputError, match="an integer >= 1"):
            kind(count)


def test_they_are_exported() -> None:
    assert PerClass is SamePerClass
