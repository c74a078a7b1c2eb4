import contextlib
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from quiet import several_processes
from small_runs import QUIET, events, fit
from torch import Tensor, nn

from lightning_saliency import SaliencyCallback
from lightning_saliency.callbacks import budget as module
from lightning_saliency.callbacks.budget import Budget
from lightning_saliency.callbacks.failures import FailureLog
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.stage_runner import StageRunner
from lightning_saliency.errors import InputError

pytestmark = QUIET


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


def explain(budget: Budget, clock: Clock, seconds: float) -> None:
    with budget.explaining():
        clock.now += seconds


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_a_share_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(InputError, match="max_overhead"):
        Budget(share)


def test_the_next_is_allowed_when_there_is_room(clock: Clock) -> None:
    budget = Budget(0.1)
    budget.start()
    explain(budget, clock, 10)
    # Another 10 of then 20 + 80 seconds would be a fifth.
    clock.now += 80
    assert not budget.allows_next(progress=0)
    # 20 of 200 seconds is a tenth.
    clock.now += 100
    assert budget.allows_next(progress=0)
    assert budget.overhead == pytest.approx(10 / 190)


def test_the_first_is_made_early_if_it_fits_into_the_whole_run(clock: Clock) -> None:
    budget = Budget(0.1)
    budget.start()
    assert budget.needs_estimate
    with budget.estimating(8):
        clock.now += 1
    assert budget.cost == 8
    clock.now += 9
    # 1 second is spent, 8 more would be; a run that is done to a ninth takes 90 seconds.
    assert budget.allows_next(progress=1 / 9)
    assert not budget.allows_next(progress=1 / 8)
    # Nobody knows the end: not on credit for ever, but once.
    assert budget.allows_next(progress=0)
    explain(budget, clock, 8)
    assert not budget.allows_next(progress=1 / 9)
    assert not budget.allows_next(progress=0)


def test_the_first_comes_later_in_a_short_run(clock: Clock) -> None:
    budget = Budget(0.1)
    budget.start()
    with budget.estimating(1):
        clock.now += 2
    assert not budget.allows_next(progress=0.5)
    clock.now += 36
    # 4 seconds of then 40.
    assert budget.allows_next(progress=0.9)


def test_without_a_limit_everything_is_allowed(clock: Clock) -> None:
    budget = Budget(None)
    budget.start()
    explain(budget, clock, 1000)
    assert budget.allows_next(progress=1)
    assert not Budget(None).needs_estimate


def test_time_is_booked_when_an_explanation_fails(clock: Clock) -> None:
    budget = Budget(0.5)
    budget.start()
    with contextlib.suppress(ValueError), budget.explaining():
        clock.now += 3
        raise ValueError
    assert budget.overhead == 1
    assert budget.made == 0
    assert budget.needs_estimate


def test_the_account_goes_on_after_a_resume(clock: Clock) -> None:
    first = Budget(0.1)
    first.start()
    explain(first, clock, 10)
    clock.now += 90
    second = Budget(0.1)
    second.load_state_dict(first.state_dict())
    clock.now += 5000
    second.start()
    assert second.overhead == pytest.approx(0.1)
    assert not second.allows_next(progress=0.5)
    assert second.made == 1


def test_the_time_between_two_runs_is_not_the_runs(clock: Clock) -> None:
    budget = Budget(0.1)
    budget.start()
    clock.now += 30
    budget.stop()
    clock.now += 5000
    budget.start()
    clock.now += 30
    assert budget.elapsed == 60


# --- in runs: a method that takes two seconds for each image, in epochs of ten ---------------


class Slow:
    """Explains at the cost of two seconds for each image on the clock of the test."""

    __name__ = "slow"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __call__(self, model: nn.Module, image: Tensor, target: Any) -> Tensor:
        self.clock.now += 2 * len(image)
        return image.abs().mean(1, keepdim=True)


class Epochs(pl.Callback):
    """Lets ten seconds pass in each epoch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.clock.now += 10


def run(folder: Path, clock: Clock, epochs: int, share: float | None, **settings: Any) -> list[int]:
    """Return the epochs that were explained; Lightning's steps are 3, 7, 11, ..."""
    callback = SaliencyCallback(Slow(clock), samples=2, max_overhead=share, **settings)
    fit(folder, Epochs(clock), callback, max_epochs=epochs)
    tags = events(folder).Tags()["images"]
    images = events(folder).Images("saliency/samples/slow/0") if tags else []
    return [event.step // 4 for event in images]


def test_a_run_keeps_its_share_and_says_so(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    # The first one at once, because it fits into the whole run: 2 seconds to find out what it takes
    # and 4 that it takes. The next when there is room, 10 <= 0.1 * (96 + 4), eight epochs later.
    with caplog.at_level(logging.INFO):
        assert run(tmp_path, clock, 20, 0.1) == [0, 8, 12, 16, 19]
    (said,) = [r.message for r in caplog.records if "were made" in r.message]
    assert "5 were made and 15 skipped to keep within max_overhead=0.1" in said
    assert "9.9% of the run" in said
    (first,) = [r.message for r in caplog.records if "An explanation takes" in r.message]
    assert "about 4 s" in first
    assert "About every 40 s" in first
    logged = events(tmp_path).Scalars("saliency_overhead")
    # After each validation run, explained or not: 6 of 16 seconds after the first.
    assert [event.step // 4 for event in logged] == list(range(20))
    assert logged[0].value == pytest.approx(6 / 16)
    assert logged[-1].value == pytest.approx(22 / 222)


def test_a_run_too_short_for_its_share_warns(tmp_path: Path, clock: Clock) -> None:
    with pytest.warns(UserWarning, match="Nothing was explained: max_overhead=0.1 of the run's"):
        assert run(tmp_path, clock, 3, 0.1) == []


def test_without_a_limit_the_share_is_logged_too(tmp_path: Path, clock: Clock) -> None:
    assert run(tmp_path, clock, 2, None) == [0, 1]
    values = [event.value for event in events(tmp_path).Scalars("saliency_overhead")]
    assert values == pytest.approx([4 / 14, 8 / 28])


def test_the_shares_of_several_callbacks_add_up(tmp_path: Path, clock: Clock) -> None:
    other = Slow(clock)
    other.__name__ = "other"
    third = SaliencyCallback(Slow(clock), samples=1, name="third")
    callbacks = SaliencyCallback(Slow(clock), samples=1), SaliencyCallback(other, samples=2), third
    fit(tmp_path, Epochs(clock), *callbacks, max_epochs=1)
    found = events(tmp_path)
    (both,), (own,) = found.Scalars("saliency_overhead"), found.Scalars("third/saliency_overhead")
    assert both.value == pytest.approx(2 / 12 + 4 / 16)
    assert own.value == pytest.approx(2 / 18)


def test_processes_that_hold_one_model_together_explain_the_same_samples(clock: Clock) -> None:
    def rehearse() -> None:
        clock.now += 2

    # Two copies of the model, each spread over two of the four processes.
    strategy = SimpleNamespace(
        root_device=torch.device("cpu"),
        distributed_sampler_kwargs={"num_replicas": 2, "rank": 1},
        broadcast=lambda decision, src: decision,
    )
    trainer: Any = SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        strategy=strategy,
        world_size=4,
        global_rank=3,
        max_steps=-1,
        max_epochs=-1,
        num_training_batches=1,
    )
    budget, module = Budget(0.1), pl.LightningModule()
    budget.start()
    runner = StageRunner(budget, FailureLog("warn"))
    runner.may_explain(RunContext(trainer, module), 8, rehearse)
    # Four of the eight samples on each process, three of them beside another.
    assert budget.cost == pytest.approx(2 * (1 + 3 * 2 / 3))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_epochs": 5}, [0.2, 0.4, 0.6, 0.8, 1.0]),
        ({"max_epochs": -1, "max_steps": 8}, [0.5, 1.0]),
        ({"max_epochs": 100, "max_steps": 8}, [0.5, 1.0]),
        ({"max_epochs": 2, "val_check_interval": 0.5}, [0.25, 0.5, 0.75, 1.0]),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, [0.5, 1.0]),
        ({"max_epochs": -1, "max_time": {"hours": 1}}, [0.0]),
    ],
    ids=str,
)
def test_the_progress_of_a_run(
    tmp_path: Path, limits: dict[str, Any], expected: list[float]
) -> None:
    class Watch(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            if not trainer.sanity_checking:
                self.seen.append(RunContext(trainer, module).progress)
                trainer.should_stop = len(self.seen) == len(expected)

    watch = Watch()
    fit(tmp_path, watch, **limits)
    assert watch.seen == expected


class DifferentClocks(Slow):
    """A clock that goes twice as fast on the second process."""

    def __call__(self, model: nn.Module, image: Tensor, target: Any) -> Tensor:
        self.clock.now += 100 * torch.distributed.get_rank()
        return super().__call__(model, image, target)


@pytest.mark.slow
@several_processes
def test_all_processes_skip_together(tmp_path: Path, clock: Clock) -> None:
    # By its own clock the second process would explain nothing, and the first would wait for it.
    method = DifferentClocks(clock)
    callback = SaliencyCallback(method, samples=4, max_overhead=0.1)
    two = {"strategy": "ddp_fork", "devices": 2}
    fit(tmp_path, Epochs(clock), callback, max_epochs=20, **two)
    found = events(tmp_path)
    # As alone with two samples: each process has two of the four. Two batches an epoch.
    steps = [event.step for event in found.Images("saliency/samples/slow/0")]
    assert [step // 2 for step in steps] == [0, 8, 12, 16, 19]
    assert found.Scalars("saliency_overhead")[-1].value == pytest.approx(22 / 222)
