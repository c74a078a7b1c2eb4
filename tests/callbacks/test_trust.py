"""Faithfulness on a schedule, and a sanity check once, in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from small_runs import QUIET, TinyModule, events, fit, make_trainer, train_loader, val_loader
from torch import Tensor, nn

from lightning_saliency import GradCAMCallback, SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient, LinearApprox
from lightning_saliency.callbacks.stages.faithfulness import FaithfulnessStage
from lightning_saliency.callbacks.stages.sanity import copied_module
from lightning_saliency.errors import InputError, ModelError
from lightning_saliency.metrics import FAITHFULNESS
from lightning_saliency.trust import TrustChecks, measure_faithfulness, sanity_check

pytestmark = QUIET

ALL = tuple(FAITHFULNESS)


def tags(folder: Path, kind: str, start: str) -> list[str]:
    return sorted(tag for tag in events(folder).Tags()[kind] if tag.startswith(start))


def steps(folder: Path, tag: str) -> list[int]:
    return [event.step for event in events(folder).Scalars(tag)]


def test_nothing_is_measured_unless_asked_for(tmp_path: Path) -> None:
    fit(tmp_path, SaliencyCallback(Gradient(), samples=1))
    for kind in ("scalars", "images"):
        assert tags(tmp_path, kind, "saliency_faithfulness") == []
        assert tags(tmp_path, kind, "saliency_sanity") == []


@pytest.mark.parametrize(
    ("every", "wanted"), [(1, [3, 7, 11, 15, 19]), (2, [3, 11, 19]), (9, [3])], ids=str
)
def test_faithfulness_is_measured_on_its_schedule(
    tmp_path: Path, every: int, wanted: list[int]
) -> None:
    checks = TrustChecks(["insertion", "increase"], every)
    callback = SaliencyCallback([Gradient(), GradCAM()], samples=3, trust=checks, on_error="raise")
    trainer = fit(tmp_path, callback, max_epochs=5)
    assert tags(tmp_path, "scalars", "saliency_faithfulness") == [
        f"saliency_faithfulness/{method}/{measure}"
        for method in ("grad_cam", "gradient")
        for measure in ("increase", "insertion")
    ]
    for tag in tags(tmp_path, "scalars", "saliency_faithfulness"):
        assert steps(tmp_path, tag) == wanted
        assert tag in trainer.callback_metrics


def test_numbers_are_those_of_the_function(tmp_path: Path) -> None:
    callback = SaliencyCallback(
        [Gradient(), GradCAM()],
        samples=5,
        target=("label", "predicted"),
        trust=TrustChecks(ALL),
        on_error="raise",
    )
    trainer = fit(tmp_path, callback)
    model = trainer.lightning_module
    images, labels = (t[:5] for t in val_loader().dataset.tensors)  # type: ignore[attr-defined]
    predicted = model.eval()(images).argmax(1)
    for method in (Gradient(), GradCAM()):
        for choice, target in (("label", labels), ("predicted", predicted)):
            maps = method(model, images, target)
            values = measure_faithfulness(model, images, maps, target, ALL)
            for name, value in values.items():
                tag = f"saliency_faithfulness/{method.name}/{choice}/{name}"
                came = float(trainer.callback_metrics[tag])
                assert came == pytest.approx(float(value.nanmean()), abs=1e-5), tag


def test_faithfulness_can_be_monitored_and_has_a_name_before_it(tmp_path: Path) -> None:
    monitor = "mine/saliency_faithfulness/gradient/deletion"
    stopping = EarlyStopping(monitor, mode="min", patience=50)
    callback = SaliencyCallback(
        Gradient(), samples=2, trust=TrustChecks(["deletion"], every=2), name="mine"
    )
    fit(tmp_path, callback, stopping, max_epochs=4)
    assert 0 < float(stopping.best_score) < 1


def test_time_is_booked_and_held_back_by_the_budget(tmp_path: Path) -> None:
    callback = SaliencyCallback(
        Gradient(), samples=2, trust=TrustChecks(["deletion"]), max_overhead=1e-6
    )
    callback._budget.allows_next = lambda progress: progress > 0  # type: ignore[method-assign]
    fit(tmp_path, callback)
    # Explanations have room, and what comes on top has none.
    assert tags(tmp_path, "scalars", "saliency_target")
    assert tags(tmp_path, "scalars", "saliency_faithfulness") == []


def test_all_maps_degenerate_gives_nan(tmp_path: Path) -> None:
    def nothing(model: nn.Module, image: Tensor, target: Any) -> Tensor:
        return torch.zeros(len(image), 1, 4, 4)

    callback = SaliencyCallback(nothing, samples=2, trust=TrustChecks(["deletion", "road"]))
    trainer = fit(tmp_path, callback)
    assert trainer.callback_metrics["saliency_faithfulness/nothing/deletion"].isnan()


# --- the sanity check -------------------------------------------------------------------------

MEASURES = ("spearman", "ssim", "top10_iou")


def sanity_tags(method: str, signed: bool = False) -> list[str]:
    measures = MEASURES + tuple(f"{measure}_abs" for measure in MEASURES) * signed
    return sorted(
        f"saliency_sanity/{method}/{part}/{measure}"
        for part in ("cascading", "independent", "all_random")
        for measure in measures
    )


def test_sanity_check_when_training_ends(tmp_path: Path) -> None:
    callback = SaliencyCallback(
        [Gradient(), LinearApprox()],
        samples=3,
        trust=TrustChecks(sanity_check=True),
        on_error="raise",
    )
    trainer = fit(tmp_path, callback, max_epochs=3)
    wanted = sanity_tags("gradient") + sanity_tags("linear_approx", signed=True)
    found = events(tmp_path)
    assert tags(tmp_path, "scalars", "saliency_sanity") == wanted
    assert all(steps(tmp_path, tag) == [11] for tag in wanted)
    assert tags(tmp_path, "images", "saliency/sanity") == [
        "saliency/sanity/gradient",
        "saliency/sanity/linear_approx",
    ]
    picture = found.Images("saliency/sanity/gradient")
    assert [(event.step, event.width > 600, event.height > 400) for event in picture] == [
        (11, True, True)
    ]
    # The numbers are those of the function.
    model = trainer.lightning_module
    images, labels = (t[:3] for t in val_loader().dataset.tensors)  # type: ignore[attr-defined]
    check = sanity_check(model, Gradient(), images, labels)
    logged = found.Scalars("saliency_sanity/gradient/cascading/spearman")[0].value
    assert logged == pytest.approx(float(check.similarity["spearman"].nanmean()), abs=1e-5)
    logged = found.Scalars("saliency_sanity/gradient/all_random/ssim")[0].value
    assert logged == pytest.approx(float(check.similarity["ssim"][:, -1].nanmean()), abs=1e-5)


def test_sanity_check_of_an_epoch_is_made_once(tmp_path: Path) -> None:
    def run(folder: Path, epochs: int, checkpoint: Path | None = None) -> list[int]:
        callback = GradCAMCallback(
            samples=2,
            every_n_epochs=2,
            trust=TrustChecks(sanity_check=1),
            name="mine",
            on_error="raise",
        )
        torch.manual_seed(0)
        saver = ModelCheckpoint(folder, filename="end", save_on_train_epoch_end=True)
        trainer = make_trainer(
            folder, callback, saver, max_epochs=epochs, enable_checkpointing=True
        )
        trainer.fit(TinyModule(), train_loader(), val_loader(), ckpt_path=checkpoint)
        found = tags(folder, "images", "mine/saliency/sanity")
        return [event.step for tag in found for event in events(folder).Images(tag)]

    # Explained are the epochs 0, 2 and 4.
    assert run(tmp_path / "whole", 5) == [11]
    assert run(tmp_path / "part", 1) == []
    assert run(tmp_path / "rest", 5, tmp_path / "part" / "end.ckpt") == [11]
    assert run(tmp_path / "more", 7, tmp_path / "whole" / "end.ckpt") == []


def test_sanity_check_of_a_trained_model(tmp_path: Path) -> None:
    callback = SaliencyCallback(Gradient(), samples=2, trust=TrustChecks(sanity_check=True))
    trainer = make_trainer(tmp_path, callback)
    trainer.validate(TinyModule(), val_loader(), verbose=False)
    assert tags(tmp_path, "images", "saliency/sanity") == ["saliency/sanity/gradient"]


def test_sanity_check_needs_no_logger_of_images(tmp_path: Path) -> None:
    callback = SaliencyCallback(Gradient(), samples=2, trust=TrustChecks(sanity_check=True))
    with pytest.warns(UserWarning, match="none takes images|The run has no logger"):
        fit(tmp_path, callback, logger=CSVLogger(tmp_path))
    text = next(tmp_path.rglob("metrics.csv")).read_text()
    assert "saliency_sanity/gradient/cascading/ssim" in text


class Uncopyable(TinyModule):
    def __init__(self) -> None:
        super().__init__()
        self.generator = (i for i in range(3))


def test_a_module_that_cannot_be_copied_is_told_of_before_training(tmp_path: Path) -> None:
    for settings in ({}, {"num_sanity_val_steps": 0}):
        callback = SaliencyCallback(Gradient(), samples=2, trust=TrustChecks(sanity_check=True))
        module = Uncopyable()
        with pytest.raises(ModelError, match="but Uncopyable cannot"):
            make_trainer(tmp_path, callback, **settings).fit(module, train_loader(), val_loader())
        assert module.steps == 0
    callback = SaliencyCallback(Gradient(), samples=2, trust=TrustChecks(["deletion"]))
    make_trainer(tmp_path, callback).fit(Uncopyable(), train_loader(), val_loader())


def test_the_copy_knows_the_trainer_and_is_no_view_of_the_original(tmp_path: Path) -> None:
    class LooksAround(TinyModule):
        def forward(self, images: Tensor) -> Tensor:
            return self.net(images) * (self.trainer.max_epochs or 1)

    callback = SaliencyCallback(
        Gradient(), samples=2, trust=TrustChecks(sanity_check=True), on_error="raise"
    )
    trainer = make_trainer(tmp_path, callback)
    trainer.fit(LooksAround(), train_loader(), val_loader())
    value = events(tmp_path).Scalars("saliency_sanity/gradient/all_random/spearman")[0].value
    assert value < 0.9
    copy = copied_module(trainer.lightning_module)
    assert copy.trainer is not None
    assert copy.net is not trainer.lightning_module.net


@pytest.mark.slow
def test_a_module_compiled_as_a_whole(tmp_path: Path) -> None:
    torch._dynamo.reset()
    module: Any = torch.compile(TinyModule(), backend="eager")
    callback = SaliencyCallback(
        Gradient(), samples=2, trust=TrustChecks(sanity_check=True), on_error="raise"
    )
    trainer = make_trainer(tmp_path, callback, max_epochs=1)
    trainer.fit(module, train_loader(), val_loader())
    value = events(tmp_path).Scalars("saliency_sanity/gradient/all_random/spearman")[0].value
    assert value < 0.9


def fails(model: nn.Module, image: Tensor, target: Any) -> Tensor:
    if not hasattr(model, "fine"):
        raise ZeroDivisionError("on the copy")
    return image.abs().sum(1, keepdim=True)


@pytest.mark.filterwarnings("ignore:.*on the copy")
def test_a_check_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    class Fine(TinyModule):
        @property
        def fine(self) -> bool:
            # Only the original has been trained.
            if self.steps == 0 or not self._is_copy:
                return True
            raise AttributeError

        _is_copy = False

        def __getstate__(self) -> dict[str, Any]:
            return {**super().__getstate__(), "_is_copy": True}

    callback = SaliencyCallback(fails, samples=2, trust=TrustChecks(sanity_check=True))
    trainer = make_trainer(tmp_path, callback)
    trainer.fit(Fine(), train_loader(), val_loader())
    assert trainer.state.finished
    assert tags(tmp_path, "images", "saliency/sanity") == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TrustChecks(["fidelity"]), "got 'fidelity'"),
        (lambda: TrustChecks("insertion"), "got 'insertion'"),
        (lambda: TrustChecks(["road", "road"]), "each measure once"),
        (lambda: TrustChecks(every=0), "every to be a number"),
        (lambda: TrustChecks(every=True), "every to be a number"),
        (lambda: TrustChecks(sanity_check=-1), "sanity_check to be True"),
        (lambda: TrustChecks(sanity_check="end"), "sanity_check to be True"),  # type: ignore[arg-type]
        (lambda: SaliencyCallback(Gradient(), trust=True), "trust to be TrustChecks"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_settings_from_a_file(tmp_path: Path) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(GradCAMCallback, "callback")
    file = tmp_path / "settings.yaml"
    file.write_text(
        "callback:\n  trust:\n    faithfulness: [insertion, road]\n    every: 5\n"
        "    sanity_check: true\n"
    )
    # The second is the older name.
    make = getattr(parser, "instantiate", None) or parser.instantiate_classes
    made: pl.Callback = make(parser.parse_path(file)).callback
    assert isinstance(made, GradCAMCallback)
    (faithfulness,) = [s for s in made._later_stages if isinstance(s, FaithfulnessStage)]
    assert (faithfulness._measures, faithfulness.every) == (["insertion", "road"], 5)
    assert made._sanity.at_the_end
