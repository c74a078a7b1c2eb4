"""What the callback logs, and when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from small_runs import (
    QUIET,
    TinyModule,
    dataset,
    events,
    fit,
    make_trainer,
    train_loader,
    val_loader,
)
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.errors import InputError
from lightning_saliency.metrics import NO_DRIFT

pytestmark = QUIET

MEASURES = ["top10_iou", "spearman", "ssim", "center_shift", "log2_norm_ratio", "coarse"]
REFERENCES = ["previous", "pinned"]


def basic_tags(series: str) -> set[str]:
    drift = {f"saliency_drift/{series}/{reference}" for reference in REFERENCES}
    return {*drift, f"saliency_target/{series}/empty"}


def full_tags(series: str) -> set[str]:
    similarities = MEASURES[:3]
    of_references = {
        *(f"similarity/{{}}/{{}}/{measure}" for measure in MEASURES),
        *(f"similarity_stable/{{}}/{{}}/{measure}" for measure in similarities),
        *(f"drift_relative/{{}}/{{}}/{measure}" for measure in similarities),
        *(f"similarity_worst/{{}}/{{}}/{what}" for what in ("top10_iou", "sample")),
    }
    return {
        *basic_tags(series),
        *(f"saliency_{tag.format(series, ref)}" for tag in of_references for ref in REFERENCES),
        *(f"saliency_similarity_level/{series}/chance/{measure}" for measure in similarities),
        f"saliency_similarity/{series}/pinned/epoch",
        f"saliency_target/{series}/probability",
        f"saliency_target/{series}/log_probability",
    }


ONCE = {"saliency_target/flips", "saliency_overhead"}
# They need nothing to compare with.
FROM_THE_FIRST = ("empty", "probability", "overhead", "chance", "pinned/epoch")


@pytest.mark.parametrize(("log", "tags_of"), [("basic", basic_tags), ("full", full_tags)])
def test_the_event_file_holds_exactly_the_promised_tags_and_steps(
    tmp_path: Path, log: Any, tags_of: Callable[[str], set[str]]
) -> None:
    callback = SaliencyCallback([Gradient(), GradCAM("net.features")], samples=3, log=log)
    fit(tmp_path, callback, max_epochs=3)
    found = events(tmp_path)
    images = {
        *(
            f"saliency/samples/{series}/{i}"
            for series in ("gradient", "grad_cam")
            for i in range(3)
        ),
        *(f"saliency/filmstrip/{series}" for series in ("gradient", "grad_cam")),
        "saliency/methods",
    }
    once = {
        f"saliency/{what}/{series}"
        for what in ("pinned", "timelapse")
        for series in ("gradient", "grad_cam")
    }
    assert set(found.Tags()["images"]) == images | once
    # Only where a prediction has changed.
    scalars = {
        tag
        for tag in found.Tags()["scalars"]
        if tag.startswith("saliency") and "_flipped/" not in tag
    }
    assert scalars == tags_of("gradient") | tags_of("grad_cam") | ONCE
    # Four batches an epoch: Lightning logs its validation metrics at 3, 7 and 11, the sanity check
    # nothing at all.
    validation = [event.step for event in found.Scalars("val_loss")]
    assert validation == [3, 7, 11]
    for tag in images:
        assert [event.step for event in found.Images(tag)] == validation, tag
    for tag in once:
        step = 3 if "pinned" in tag else 11
        assert [event.step for event in found.Images(tag)] == [step], tag
    for tag in scalars:
        steps = [event.step for event in found.Scalars(tag)]
        # What can never be measured before it was finite once: no sample may be stable yet.
        late = "similarity_stable" in tag or "relative" in tag
        assert steps == (validation if tag.endswith(FROM_THE_FIRST) or "chance" in tag else steps)
        assert late or steps == validation[-len(steps) :], tag
        assert len(steps) == 3 or not tag.endswith(FROM_THE_FIRST), tag


@pytest.mark.parametrize(("count", "tags"), [(2, 8), (9, 29), (12, 38)])
def test_a_run_adds_few_charts_to_the_users_own(count: int, tags: int, tmp_path: Path) -> None:
    def bright(number: int) -> Any:
        def explain(model: torch.nn.Module, image: Tensor, target: Any) -> Tensor:
            return image.abs().mean(1, keepdim=True) + number

        explain.__name__ = f"method_{number}"
        return explain

    fit(tmp_path, SaliencyCallback([bright(number) for number in range(count)], samples=2))
    found = events(tmp_path).Tags()["scalars"]
    assert len([tag for tag in found if "saliency" in tag]) == tags


@pytest.mark.parametrize("log", ["all", None, True])
def test_how_much_is_logged_is_checked(log: Any) -> None:
    with pytest.raises(InputError, match="log to be 'basic' or 'full'"):
        SaliencyCallback(Gradient(), log=log)


def test_one_method_has_no_side_by_side_panel(tmp_path: Path) -> None:
    fit(tmp_path, SaliencyCallback(Gradient(), samples=1))
    assert set(events(tmp_path).Tags()["images"]) == {
        "saliency/samples/gradient/0",
        "saliency/filmstrip/gradient",
        "saliency/pinned/gradient",
        "saliency/timelapse/gradient",
    }


def test_two_targets_are_logged_apart(tmp_path: Path) -> None:
    fit(tmp_path, SaliencyCallback(Gradient(), samples=1, target=("label", "predicted")))
    tags = set(events(tmp_path).Tags()["images"])
    assert "saliency/samples/gradient/label/0" in tags
    assert "saliency/samples/gradient/predicted/0" in tags
    assert "saliency/filmstrip/gradient/predicted" in tags


def test_a_name_stands_before_all_tags(tmp_path: Path) -> None:
    first = SaliencyCallback(Gradient(), samples=1)
    second = SaliencyCallback(Gradient("net.features"), samples=1, name="deep")
    fit(tmp_path, first, second)
    found = events(tmp_path)
    ours = [tag for kind in ("images", "scalars") for tag in found.Tags()[kind] if "salien" in tag]
    assert {tag for tag in ours if tag.startswith("deep/saliency")} == {
        f"deep/{tag}" for tag in ours if tag.startswith("saliency")
    }


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, [3, 7]),
        ({"num_sanity_val_steps": 0}, [3, 7]),
        ({"val_check_interval": 0.5}, [1, 3, 5, 7]),
        ({"check_val_every_n_epoch": 2, "max_epochs": 4}, [7, 11, 15]),
        ({"fast_dev_run": True}, []),
        ({"accumulate_grad_batches": 2}, [1, 3]),
    ],
    ids=str,
)
def test_pictures_stand_at_the_steps_of_the_validation_metrics(
    tmp_path: Path, settings: dict[str, Any], steps: list[int]
) -> None:
    fit(tmp_path, SaliencyCallback(Gradient(), samples=1), **settings)
    if not steps:
        assert not (tmp_path / "run").exists()
        return
    found = events(tmp_path)
    logged = [event.step for event in found.Images("saliency/samples/gradient/0")]
    assert logged == steps
    validation = [event.step for event in found.Scalars("val_loss")]
    assert set(validation) <= set(steps)
    # Epoch 3 of the fourth case ends without validation, and is explained all the same.
    assert [event.step for event in found.Scalars("saliency_target/gradient/empty")] == steps


def test_without_validation_given_samples_are_explained_at_the_end_of_each_epoch(
    tmp_path: Path,
) -> None:
    callback = SaliencyCallback(Gradient(), samples=dataset(2).tensors)
    trainer = make_trainer(tmp_path, callback)
    trainer.fit(TinyModule(), train_loader())
    steps = [event.step for event in events(tmp_path).Images("saliency/samples/gradient/1")]
    assert steps == [3, 7]


def test_every_n_epochs_counts_from_the_first(tmp_path: Path) -> None:
    callback = SaliencyCallback(Gradient(), samples=1, every_n_epochs=2)
    fit(tmp_path, callback, max_epochs=5)
    steps = [event.step for event in events(tmp_path).Images("saliency/samples/gradient/0")]
    assert steps == [3, 11, 19]


class Spy:
    """A method that notes what it is called with."""

    __name__ = "spy"

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.targets: list[list[int]] = []

    def __call__(self, model: torch.nn.Module, image: Tensor, target: Any) -> Tensor:
        self.images.append(image.clone())
        self.targets.append(target.tolist())
        return image.abs().mean(1, keepdim=True)


def test_the_first_validation_samples_are_explained_every_time(tmp_path: Path) -> None:
    spy = Spy()
    fit(tmp_path, SaliencyCallback(spy, samples=6))
    images, labels = val_loader().dataset.tensors  # type: ignore[attr-defined]
    assert len(spy.images) == 2
    for seen, targets in zip(spy.images, spy.targets, strict=True):
        assert torch.equal(seen, images[:6])
        assert targets == labels[:6].tolist()


def test_samples_by_index_do_not_depend_on_the_order_of_the_loader(tmp_path: Path) -> None:
    spy = Spy()
    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, SaliencyCallback(spy, samples=[11, 2]))
    shuffled = DataLoader(dataset(12, seed=2), batch_size=4, shuffle=True)
    trainer.fit(TinyModule(), train_loader(), shuffled)
    images = dataset(12, seed=2).tensors[0]
    assert [torch.equal(seen, images[[11, 2]]) for seen in spy.images] == [True, True]


def test_shuffled_validation_data_is_explained_as_captured_once(tmp_path: Path) -> None:
    spy = Spy()
    trainer = make_trainer(tmp_path, SaliencyCallback(spy, samples=3), max_epochs=3)
    shuffled = DataLoader(dataset(12, seed=2), batch_size=4, shuffle=True)
    trainer.fit(TinyModule(), train_loader(), shuffled)
    assert len(spy.images) == 3
    assert all(torch.equal(seen, spy.images[0]) for seen in spy.images)


def test_the_predicted_class_can_be_explained(tmp_path: Path) -> None:
    spy = Spy()
    callback = SaliencyCallback(spy, samples=4, target="predicted")
    trainer = fit(tmp_path, callback)
    module = trainer.lightning_module.eval()
    with torch.no_grad():
        assert spy.targets[-1] == module(spy.images[-1]).argmax(1).tolist()


def test_a_second_validation_loader_can_be_chosen(tmp_path: Path) -> None:
    class TwoLoaders(TinyModule):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)

    spies = Spy(), Spy()
    trainer = make_trainer(
        tmp_path,
        SaliencyCallback(spies[0], samples=2, dataloader_idx=1, name="first"),
        SaliencyCallback(spies[1], samples=[1], dataloader_idx=1, name="index"),
    )
    other = DataLoader(dataset(8, seed=9), batch_size=4)
    trainer.fit(TwoLoaders(), train_loader(), [val_loader(), other])
    images = dataset(8, seed=9).tensors[0]
    assert torch.equal(spies[0].images[0], images[:2])
    assert torch.equal(spies[1].images[0], images[1:2])


def test_validate_and_test_explain_too(tmp_path: Path) -> None:
    spy = Spy()
    trainer = make_trainer(tmp_path, SaliencyCallback([Gradient(), spy], samples=2))
    trainer.validate(TinyModule(), val_loader(), verbose=False)
    assert len(spy.images) == 1
    trainer.test(TinyModule(), val_loader(), verbose=False)
    assert len(spy.images) == 2
    assert torch.equal(spy.images[0], spy.images[1])
    assert "saliency/samples/gradient/1" in events(tmp_path).Tags()["images"]


@pytest.mark.parametrize(
    "settings", [{}, {"val_check_interval": 0.5}, {"check_val_every_n_epoch": 2}], ids=str
)
def test_the_numbers_can_be_monitored(tmp_path: Path, settings: dict[str, Any]) -> None:
    monitor = "saliency_drift/gradient/previous/spearman"
    stopping = EarlyStopping(monitor, mode="max", patience=50)
    saving = ModelCheckpoint(tmp_path / "saved", monitor=monitor, mode="max", save_top_k=-1)
    callback = SaliencyCallback(Gradient(), samples=4)
    trainer = fit(
        tmp_path, stopping, callback, saving, enable_checkpointing=True, max_epochs=4, **settings
    )
    # The first explanation has nothing to be compared with, and must not be the best one.
    assert -1 < stopping.best_score < 1
    assert saving.best_model_score == stopping.best_score
    assert -1 < trainer.callback_metrics[monitor] < 1


def test_constant_weights_do_not_drift(tmp_path: Path) -> None:
    class Still(TinyModule):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

        def on_train_start(self) -> None:
            for module in self.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = 0.0

    trainer = make_trainer(tmp_path, SaliencyCallback([Gradient(), GradCAM()], samples=4))
    trainer.fit(Still(), train_loader(), val_loader())
    unmoved = {
        "flips": 0.0,
        "epoch": 0.0,
        "previous": 0.0,
        "pinned": 0.0,
        "coarse": 1.0,
        **NO_DRIFT,
    }
    for name, value in trainer.callback_metrics.items():
        if name.startswith(("saliency_drift/", "saliency_drift_stable/")) or "flips" in name:
            assert value == unmoved[name.rpartition("/")[2]], name
        if name.startswith("saliency_drift_relative/"):
            assert value == 0, name


@pytest.mark.parametrize("every", ["epoch end", "validation end"])
def test_a_resumed_run_goes_on_with_samples_references_and_filmstrip(
    tmp_path: Path, every: str
) -> None:
    def run(folder: Path, epochs: int, checkpoint: Path | None = None) -> pl.Trainer:
        torch.manual_seed(0)
        saver = ModelCheckpoint(
            folder, filename="last", save_on_train_epoch_end=every == "epoch end"
        )
        callback = SaliencyCallback([Gradient(), GradCAM()], samples=3)
        trainer = make_trainer(
            folder, callback, saver, enable_checkpointing=True, max_epochs=epochs
        )
        loader = DataLoader(dataset(16, seed=1), batch_size=4)
        shuffled = DataLoader(dataset(12, seed=2), batch_size=4, shuffle=True)
        module = TinyModule()
        # Lightning does not save the random streams, so a resumed run has other dropout.
        module.net.hidden[1].p = module.net.hidden[4].p = 0.0
        trainer.fit(module, loader, shuffled, ckpt_path=checkpoint)
        return trainer

    def drift(folder: Path) -> dict[int, float]:
        tags = "saliency_drift/grad_cam/previous", "saliency_drift/gradient/pinned"
        found = events(folder)
        return {(tag, event.step): event.value for tag in tags for event in found.Scalars(tag)}

    whole = run(tmp_path / "whole", 3)
    run(tmp_path / "part", 2)
    resumed = run(tmp_path / "rest", 3, tmp_path / "part" / "last.ckpt")
    expected = {key: value for key, value in drift(tmp_path / "whole").items() if key[1] > 7}
    assert drift(tmp_path / "rest") == expected
    strips = [
        next(c for c in t.callbacks if isinstance(c, SaliencyCallback)).filmstrip("grad_cam")
        for t in (whole, resumed)
    ]
    assert torch.equal(*strips)


def test_a_callable_is_a_method_under_the_same_guards(tmp_path: Path) -> None:
    def careless(model: torch.nn.Module, image: Tensor, target: Any) -> Tensor:
        model.train()
        model.zero_grad()
        image.requires_grad_()
        model(image).sum().backward()
        assert image.grad is not None
        return image.grad.abs().sum(1, keepdim=True)

    fit(tmp_path, SaliencyCallback(careless, samples=2, on_error="raise"))
    assert "saliency/samples/careless/1" in events(tmp_path).Tags()["images"]


def test_fewer_samples_than_asked_for_are_said_and_explained(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Expected 50 samples, but the validation run had only 12"):
        fit(tmp_path, SaliencyCallback(Gradient(), samples=50))
    assert "saliency/samples/gradient/11" in events(tmp_path).Tags()["images"]


def test_the_filmstrip_is_the_one_logged_last(tmp_path: Path) -> None:
    callback = SaliencyCallback(Gradient(), samples=2)
    fit(tmp_path, callback)
    strip = callback.filmstrip()
    logged = events(tmp_path).Images("saliency/filmstrip/gradient")[-1]
    assert strip.shape == (3, logged.height, logged.width)
    assert strip.dtype == torch.uint8
