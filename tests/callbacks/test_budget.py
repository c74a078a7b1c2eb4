import contextlib

import pytest

from lightning_saliency.callbacks import budget as module
from lightning_saliency.callbacks.budget import Budget
from lightning_saliency.errors import InputError


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


def spend(budget: Budget, clock: Clock, seconds: float) -> None:
    with budget.spending():
        clock.now += seconds


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_a_share_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(InputError, match="max_overhead"):
        Budget(share)


def test_the_first_is_allowed_and_the_next_when_there_is_room(clock: Clock) -> None:
    budget = Budget(0.1)
    budget.start()
    assert budget.allows_next()
    spend(budget, clock, 10)
    # Another 10 of then 20 + 80 seconds would be a fifth.
    clock.now += 80
    assert not budget.allows_next()
    # 20 of 200 seconds is a tenth.
    clock.now += 100
    assert budget.allows_next()
    assert budget.overhead == pytest.approx(10 / 190)


def test_without_a_limit_everything_is_allowed(clock: Clock) -> None:
    budget = Budget(None)
    budget.start()
    spend(budget, clock, 1000)
    assert budget.allows_next()


def test_time_is_booked_when_an_explanation_fails(clock: Clock) -> None:
    budget = Budget(0.5)
    budget.start()
    with contextlib.suppress(ValueError), budget.spending():
        clock.now += 3
        raise ValueError
    assert budget.overhead == 1


def test_the_account_goes_on_after_a_resume(clock: Clock) -> None:
    first = Budget(0.1)
    first.start()
    spend(first, clock, 10)
    clock.now += 90
    second = Budget(0.1)
    second.load_state_dict(first.state_dict())
    clock.now += 5000
    second.start()
    assert second.overhead == pytest.approx(0.1)
    assert not second.allows_next()
