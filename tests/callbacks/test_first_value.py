"""Before anything was compared, drift is not a number that wins, stops or slows down anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from small_runs import QUIET, TinyModule, dataset, events, fit, make_trainer, train_loader
from small_runs import val_loader as loader
from torch import Tensor, nn

from lightning_saliency import DriftAlarm, SaliencyCallback
from lightning_saliency.attribution import Gradient
from lightning_saliency.callbacks.tags import bounds_of, logged_tag, worst_value
from lightning_saliency.errors import SaliencyWarning

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:The explanation of epoch 0 failed"),
    pytest.mark.filterwarnings("ignore:Expected turning to explain a sample"),
]

DRIFT, OLD = "saliency_drift/turning/previous", "saliency_drift/turning/previous/top10_iou"
PINNED = "saliency_drift/turning/pinned"
# How far the maps of the explanations are from the ones before.
MOVED = (0.9, 0.6, 0.3, 0.3, 0.6)


class Turning:
    """A method of which the largest tenth moves on by a given share in each explanation."""

    __name__ = "turning"

    def __init__(self, fails: int = 0) -> None:
        self.calls, self.fails = 0, fails

    def __call__(self, model: nn.Module, image: Tensor, target: Any) -> Tensor:
        moved = sum(round(share * 26) for share in MOVED[: self.calls])
        self.calls += 1
        if self.calls <= self.fails:
            raise RuntimeError("no explanation yet")
        values = torch.arange(256.0).roll(moved)
        return values.view(1, 1, 16, 16).repeat(len(image), 1, 1, 1)


def run(folder: Path, *callbacks: pl.Callback, fails: int = 0, **settings: Any) -> pl.Trainer:
    saliency = SaliencyCallback(Turning(fails), samples=2, **settings.pop("saliency", {}))
    chosen = {"max_epochs": 6, "enable_checkpointing": True, **settings}
    return fit(folder, saliency, *callbacks, **chosen)


def best_epoch(saving: ModelCheckpoint) -> int:
    return int(saving.best_model_path.rpartition("epoch=")[2].partition("-")[0])


def values(folder: Path, tag: str) -> list[float]:
    return [event.value for event in events(folder).Scalars(tag)]


def test_charts_start_at_the_second_explanation(tmp_path: Path) -> None:
    run(tmp_path, saliency={"log": "full"})
    found = events(tmp_path)
    steps = [event.step for event in found.Scalars("val_loss")]
    for tag in (DRIFT, PINNED, logged_tag(OLD), "saliency_target/flips"):
        assert [event.step for event in found.Scalars(tag)] == steps[1:], tag
    drift = values(tmp_path, DRIFT)
    assert drift == sorted(drift[:3], reverse=True) + drift[3:]
    assert drift[1] == pytest.approx(drift[4])
    similar = values(tmp_path, logged_tag(OLD))
    assert [1 - value for value in similar] == pytest.approx(drift)


@pytest.mark.parametrize("fails", [0, 1])
@pytest.mark.parametrize(("tag", "mode", "best"), [(DRIFT, "min", 3), (OLD, "max", 3)])
def test_the_first_epoch_is_never_the_best(
    tmp_path: Path, tag: str, mode: Any, best: int, fails: int
) -> None:
    saving = ModelCheckpoint(tmp_path / "saved", monitor=tag, mode=mode)
    run(tmp_path, saving, fails=fails)
    # One that fails is tried again, sample by sample, and the maps turn with each try.
    assert best_epoch(saving) == best if not fails else best_epoch(saving) >= best


@pytest.mark.parametrize(("tag", "mode"), [(DRIFT, "min"), (OLD, "max")])
def test_the_best_few_do_not_hold_the_first(tmp_path: Path, tag: str, mode: Any) -> None:
    saving = ModelCheckpoint(tmp_path / "saved", monitor=tag, mode=mode, save_top_k=3)
    run(tmp_path, saving)
    kept = sorted(
        int(path.name.split("=")[1].split("-")[0]) for path in (tmp_path / "saved").iterdir()
    )
    assert kept == [2, 3, 4]


@pytest.mark.parametrize(
    ("tag", "mode", "threshold"), [(DRIFT, "min", 0.2), (OLD, "max", 0.9), (PINNED, "max", 1.0)]
)
def test_a_threshold_that_stops_is_not_reached_at_once(
    tmp_path: Path, tag: str, mode: Any, threshold: float
) -> None:
    stopping = EarlyStopping(tag, mode=mode, stopping_threshold=threshold, patience=50)
    assert run(tmp_path, stopping).current_epoch >= 2


@pytest.mark.parametrize(
    ("tag", "mode", "threshold"), [(DRIFT, "min", 0.96), (OLD, "max", 0.02), (PINNED, "min", 1.0)]
)
@pytest.mark.parametrize("fails", [0, 1])
def test_a_threshold_of_divergence_is_not_passed_at_once(
    tmp_path: Path, tag: str, mode: Any, threshold: float, fails: int
) -> None:
    stopping = EarlyStopping(tag, mode=mode, divergence_threshold=threshold, patience=50)
    trainer = run(tmp_path, stopping, fails=fails)
    assert trainer.current_epoch == 6
    assert stopping.stopped_epoch == 0


def test_divergence_that_is_there_still_stops(tmp_path: Path) -> None:
    stopping = EarlyStopping(DRIFT, mode="min", divergence_threshold=0.9, patience=50)
    # The first comparison, of the second epoch, is beyond it.
    assert run(tmp_path, stopping).current_epoch == 2


@pytest.mark.parametrize(("tag", "mode"), [(DRIFT, "min"), (OLD, "max")])
def test_patience_is_not_used_up_by_the_first_value(tmp_path: Path, tag: str, mode: Any) -> None:
    stopping = EarlyStopping(tag, mode=mode, patience=2)
    # Better until epoch 3, not better in epochs 4 and 5.
    assert run(tmp_path, stopping, max_epochs=9).current_epoch == 6
    assert stopping.check_finite


class Scheduled(TinyModule):
    def __init__(self, tag: str, mode: Any) -> None:
        super().__init__()
        self.tag, self.mode = tag, mode

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, self.mode, factor=0.1, patience=0
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": plateau, "monitor": self.tag},
        }


@pytest.mark.parametrize(("tag", "mode"), [(DRIFT, "min"), (OLD, "max")])
def test_the_learning_rate_is_not_cut_for_the_first_value(
    tmp_path: Path, tag: str, mode: Any
) -> None:
    module = Scheduled(tag, mode)
    trainer = make_trainer(tmp_path, SaliencyCallback(Turning(), samples=2), max_epochs=4)
    trainer.fit(module, train_loader(), loader())
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize(("tag", "mode"), [(DRIFT, "min"), (OLD, "max")])
def test_the_learning_rate_is_cut_once_drift_gets_no_better(
    tmp_path: Path, tag: str, mode: Any
) -> None:
    # Better until epoch 3, as good in epoch 4, worse in epoch 5: two cuts, each to a tenth.
    trainer = make_trainer(tmp_path, SaliencyCallback(Turning(), samples=2), max_epochs=6)
    trainer.fit(Scheduled(tag, mode), train_loader(), loader())
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.001)


def test_watchers_that_disagree_are_told_and_the_checkpoint_is_followed(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path / "saved", monitor=DRIFT, mode="min")
    stopping = EarlyStopping(DRIFT, mode="max", patience=50)
    with pytest.warns(SaliencyWarning, match="mode='min' and with mode='max'") as said:
        run(tmp_path, stopping, saving)
    assert len([w for w in said if "mode='min' and" in str(w.message)]) == 1
    assert best_epoch(saving) == 3


@pytest.mark.parametrize(
    "tag",
    [
        "saliency_drift_relative/gradient/previous/ssim",
        "saliency_drift_stable/gradient/pinned/spearman",
        "saliency_similarity/gradient/previous/center_shift",
        "saliency_drift_worst/gradient/previous/top10_iou",
        "saliency_target/flips",
        "saliency_target/gradient/flips",
        "saliency_target/gradient/empty",
        "saliency_alarm/gradient/previous/ssim",
        "saliency_drift/gradient/previous/log2_norm_ratio",
    ],
)
def test_every_number_can_be_monitored_from_the_first_epoch_on(tmp_path: Path, tag: str) -> None:
    saving = ModelCheckpoint(tmp_path / "saved", monitor=tag, mode="min")
    stopping = EarlyStopping(tag, mode="min", patience=50)
    alarm = DriftAlarm(warmup=1, window=4)
    saliency = SaliencyCallback(Gradient(), samples=4)
    trainer = fit(
        tmp_path, saving, stopping, saliency, alarm, max_epochs=3, enable_checkpointing=True
    )
    assert trainer.current_epoch == 3
    assert trainer.callback_metrics[tag].isfinite()


def test_without_room_in_the_budget_who_monitors_goes_on(tmp_path: Path) -> None:
    stopping = EarlyStopping(DRIFT, mode="min", patience=50)
    with pytest.warns(SaliencyWarning, match="Nothing was explained"):
        trainer = run(tmp_path, stopping, saliency={"max_overhead": 1e-9})
    assert trainer.current_epoch == 6
    assert not [tag for tag in events(tmp_path).Tags()["scalars"] if tag == DRIFT]


def test_a_name_that_is_not_logged_is_still_reported_by_lightning(tmp_path: Path) -> None:
    stopping = EarlyStopping("saliency_drift/turning/previous/sperman", mode="max")
    with pytest.raises(RuntimeError, match="sperman"):
        run(tmp_path, stopping)


@pytest.mark.parametrize("verb", ["validate", "test"])
@pytest.mark.parametrize("log", ["basic", "full"])
def test_validate_and_test_return_the_users_own_numbers_alone(
    tmp_path: Path, verb: str, log: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def results(folder: Path, *callbacks: pl.Callback) -> Any:
        torch.manual_seed(0)
        trainer = make_trainer(folder, *callbacks)
        found = getattr(trainer, verb)(TinyModule(), loader(), verbose=True)
        return found, capsys.readouterr().out, trainer

    alone, printed_alone, _ = results(tmp_path / "alone")
    saliency = SaliencyCallback(Gradient(), samples=2, log=log, regions=["border"])
    both, printed, trainer = results(tmp_path / "both", saliency)
    assert both == alone
    assert "saliency" not in printed
    assert len(printed.splitlines()) == len(printed_alone.splitlines())
    # They are not lost: who looks for them finds them.
    assert 0 <= trainer.callback_metrics["saliency_target/gradient/empty"] <= 1
    logged = events(tmp_path / "both").Tags()["scalars"]
    assert "saliency_region/gradient/border" in logged
    assert ("saliency_target/gradient/probability" in logged) == (log == "full")


@pytest.mark.parametrize(
    ("tag", "low", "high"),
    [
        ("saliency_drift/grad_cam/previous", 0, 1),
        ("mine/saliency_drift/grad_cam/label/pinned", 0, 1),
        ("saliency_drift/grad_cam/previous/spearman", -1, 1),
        ("saliency_similarity/grad_cam/previous/top10_iou", 0, 1),
        ("saliency_similarity/grad_cam/pinned/log2_norm_ratio", -32, 32),
        ("saliency_drift_relative/grad_cam/pinned/ssim", 0, 1),
        ("saliency_target/grad_cam/log_probability", -32, 0),
        ("saliency_target/flips", 0, 1),
        ("saliency_alarm/grad_cam/pinned/ssim", 0, 32),
        ("saliency_area/extremal_perturbation/reward_0.1", -32, 32),
    ],
)
def test_the_worst_value_of_a_number(tag: str, low: float, high: float) -> None:
    assert bounds_of(tag) == bounds_of(logged_tag(tag)) == (low, high)
    assert (worst_value(tag, "max"), worst_value(tag, "min")) == (low, high)
    assert worst_value(tag, "max", 0.25) == worst_value(tag, "min", 0.25) == 0.25


def test_given_samples_without_validation_have_a_first_value_too(tmp_path: Path) -> None:
    stopping = EarlyStopping(DRIFT, mode="min", patience=50, check_on_train_epoch_end=True)
    saliency = SaliencyCallback(Turning(), samples=dataset(2).tensors)
    trainer = make_trainer(tmp_path, saliency, stopping, max_epochs=3)
    trainer.fit(TinyModule(), train_loader())
    assert trainer.current_epoch == 3
