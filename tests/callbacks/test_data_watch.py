"""A run that goes on with other validation data: a warning that names what has changed."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from small_runs import QUIET, TinyModule, dataset, events, make_trainer, train_loader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import Gradient
from lightning_saliency.callbacks.samples.sample_set import SampleSet, differing
from lightning_saliency.errors import InputError, SaliencyWarning

pytestmark = QUIET


class Pictures(Dataset[Any]):
    """Twelve pictures, of which some are others, have another label, or come with noise."""

    def __init__(self, other: Any = (), label: Any = (), noise: str = "", count: int = 12) -> None:
        self.images, self.labels = dataset(count, seed=2).tensors
        self.images[list(other)] = self.images[list(other)].flip(2)
        self.labels[list(label)] = 0
        self.noise = noise

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        drawn = {
            "": lambda: 0.0,
            "torch": lambda: float(torch.randn(())),
            "numpy": lambda: float(np.random.randn()),
            "python": random.random,
        }[self.noise]()
        return self.images[index] + drawn, self.labels[index]


class Stream(IterableDataset[Any]):
    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __iter__(self) -> Any:
        return (self.pictures[index] for index in range(len(self.pictures)))


def train(
    folder: Path, data: Any, samples: Any, epochs: int, start: Path | None = None, **more: Any
) -> SaliencyCallback:
    torch.manual_seed(0)
    callback = SaliencyCallback(Gradient(), samples=samples, on_error="raise")
    saving = ModelCheckpoint(folder, filename="end")
    settings: dict[str, Any] = {"enable_checkpointing": True, "max_epochs": epochs}
    trainer = make_trainer(folder, callback, saving, **settings)
    loader = DataLoader(data, batch_size=4, **more)
    trainer.fit(TinyModule(), train_loader(), loader, ckpt_path=start)
    return callback


def resumed(
    folder: Path, before: Any, after: Any, samples: Any = 6, epochs: int = 2, **more: Any
) -> tuple[list[str], SaliencyCallback]:
    """Train with one data set, go on with another; return what was warned of, and the callback."""
    first = train(folder / "first", before, samples, epochs, **more)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SaliencyWarning)
        start = folder / "first" / "end.ckpt"
        second = train(folder / "second", after, samples, epochs + 2, start, **more)
    assert first._samples.known is not None
    assert second._samples.known is not None
    same = torch.equal(first._samples.known.images, second._samples.known.images)
    assert same or isinstance(samples, list)
    said = [str(each.message) for each in caught if each.category is SaliencyWarning]
    return said, second


@pytest.mark.parametrize("epochs", [1, 2])
def test_other_data_are_named_once_and_the_first_samples_stay(tmp_path: Path, epochs: int) -> None:
    changed = Pictures(other=[1], label=[4])
    said, _ = resumed(tmp_path, Pictures(), changed, 6, epochs)
    assert len(said) == 1
    assert "numbers [1, 4] of the first 6 of validation loader 0" in said[0]
    assert "keeps explaining the samples that it has" in said[0]
    found = events(tmp_path / "second")
    drift = found.Scalars("saliency_drift/gradient/previous")
    steps = [event.step for event in found.Images("saliency/filmstrip/gradient")]
    assert [event.step for event in drift] == steps
    assert drift[0].value > 0


@pytest.mark.parametrize("epochs", [1, 2])
def test_other_data_at_an_index_are_named_and_drift_starts_over(
    tmp_path: Path, epochs: int
) -> None:
    changed = Pictures(other=[1], label=[4])
    said, callback = resumed(tmp_path, Pictures(), changed, [4, 9, 1], epochs)
    assert len(said) == 1
    assert "indices [4, 1] of the validation dataset show other pictures" in said[0]
    known = callback._samples.known
    assert known is not None
    assert torch.equal(known.images, changed.images[[4, 9, 1]])
    found = events(tmp_path / "second")
    tag = "saliency_drift/gradient/previous"
    drift = found.Scalars(tag) if tag in found.Tags()["scalars"] else []
    steps = [event.step for event in found.Images("saliency/filmstrip/gradient")]
    assert [event.step for event in drift] == steps[1:]


def test_data_without_indices(tmp_path: Path) -> None:
    said, _ = resumed(tmp_path, Stream(Pictures()), Stream(Pictures(other=[0])))
    assert len(said) == 1
    assert "numbers [0] of the first 6" in said[0]


def test_samples_that_are_no_longer_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 8 items \(0 to 7\), got 9"):
        resumed(tmp_path, Pictures(), Pictures(count=8), [1, 9])


@pytest.mark.parametrize("samples", [6, [4, 9, 1]])
@pytest.mark.parametrize("epochs", [1, 2])
def test_the_same_data_are_not_spoken_of(tmp_path: Path, samples: Any, epochs: int) -> None:
    said, callback = resumed(tmp_path, Pictures(), Pictures(other=[7]), samples, epochs)
    assert said == []
    assert callback._samples.steady is True


@pytest.mark.parametrize("samples", [6, [4, 9, 1]])
@pytest.mark.parametrize("noise", ["torch", "numpy", "python"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_random_augmentation_is_no_change(
    tmp_path: Path, samples: Any, noise: str, epochs: int
) -> None:
    said, callback = resumed(
        tmp_path, Pictures(noise=noise), Pictures(noise=noise), samples, epochs
    )
    assert said == []
    assert callback._samples.steady is False


@pytest.mark.parametrize("epochs", [1, 2])
def test_shuffled_data_are_no_change(tmp_path: Path, epochs: int) -> None:
    said, _ = resumed(tmp_path, Pictures(), Pictures(), epochs=epochs, shuffle=True)
    assert said == []


def test_a_second_fit_with_other_data(tmp_path: Path) -> None:
    callback = train(tmp_path / "one", Pictures(), 6, 2)
    trainer = make_trainer(tmp_path / "two", callback)
    with pytest.warns(SaliencyWarning, match=r"numbers \[5\] of the first 6"):
        trainer.fit(TinyModule(), train_loader(), DataLoader(Pictures(other=[5]), batch_size=4))
    # A test run has other data on purpose.
    with warnings.catch_warnings():
        warnings.simplefilter("error", SaliencyWarning)
        trainer.test(TinyModule(), DataLoader(Pictures(other=[0]), batch_size=4), verbose=False)


def test_a_second_look_moves_no_random_stream(tmp_path: Path) -> None:
    """Samples by index are fetched again when a run goes on; the weights must not know."""
    ends = []
    for name, samples in (("by index", [1, 2]), ("first", 2)):
        resumed(tmp_path / name, Pictures(noise="torch"), Pictures(), samples)
        saved = torch.load(tmp_path / name / "second/end.ckpt", weights_only=True)
        ends.append(saved["state_dict"])
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_what_counts_as_another_sample() -> None:
    images, labels = dataset(4).tensors
    regions = {"object": torch.zeros(4, 1, 16, 16, dtype=torch.bool)}
    one = SampleSet(images, labels, regions)
    assert differing(one, SampleSet(images.bfloat16(), labels, regions)) == []
    assert differing(one, SampleSet(images[:2].double(), None)) == []
    pixel = images.clone()
    pixel[2, 0, 3, 3] += 1
    assert differing(one, SampleSet(pixel, labels)) == [2]
    assert differing(one, SampleSet(images, labels.roll(1))) == [0, 1, 2, 3]
    moved = {"object": regions["object"].clone()}
    moved["object"][3, 0, 1, 1] = True
    assert differing(one, SampleSet(images, labels, moved)) == [3]
    assert differing(one, SampleSet(images[..., :8], labels)) == [0, 1, 2, 3]
