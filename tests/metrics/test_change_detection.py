import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from lightning_saliency.errors import InputError
from lightning_saliency.metrics import page_hinkley_score, spike_score
from lightning_saliency.metrics.change_detection import PageHinkley

Score = Callable[[Sequence[float]], float]
EXPLANATIONS, CHANGE = 30, 18


def alarms(score: Score, series: Sequence[float]) -> list[int]:
    return [i for i in range(len(series)) if score(series[: i + 1]) > 1]


def test_spike_is_the_distance_from_the_median_in_deviations() -> None:
    generator = random.Random(0)
    series = [generator.random() for _ in range(30)]
    for end in range(10, 31):
        usual = series[max(5, end - 9) : end - 1]
        spread = stats.median_abs_deviation(usual, scale=1 / 1.4826)
        expected = (series[end - 1] - np.median(usual)) / (4 * max(spread, 0.02))
        assert spike_score(series[:end]) == pytest.approx(expected)


def test_the_floor_holds_when_the_window_is_constant() -> None:
    quiet = [1.0] * 5 + [0.1] * 8
    assert spike_score([*quiet, 0.17]) == pytest.approx(0.07 / 0.08)
    assert spike_score([*quiet, 0.19]) > 1
    assert spike_score([*quiet, 0.19], floor=0.05) < 1


def test_spikes_are_judged_from_the_tenth_value_on() -> None:
    series = [0.1] * 9 + [0.9]
    assert all(math.isnan(spike_score(series[:end])) for end in range(10))
    assert spike_score(series) == pytest.approx(10.0)


def test_a_fall_is_no_spike() -> None:
    assert spike_score([0.5] * 12 + [0.0]) < 0


def test_after_a_spike_the_next_one_is_still_seen() -> None:
    series = [0.1] * 15 + [0.6] + [0.1] * 4 + [0.6] + [0.1] * 4
    assert alarms(spike_score, series) == [15, 20]


def reference_creep(series: Sequence[float]) -> list[int]:
    """The alarms of the test on steps, with cumulated sums over each stretch."""
    steps = np.diff(series[5:])
    found, begin = [], 0
    for end in range(1, len(steps) + 1):
        part = steps[begin:end]
        means = np.cumsum(part) / np.arange(1, len(part) + 1)
        excess = np.concatenate([[0.0], np.cumsum(part - means - 0.01)])
        newest = steps[max(0, end - 64) : end]
        bound = max(4 * stats.median_abs_deviation(newest, scale=1 / 1.4826), 0.1)
        if end >= 4 and excess[-1] - excess.min() > bound:
            found.append(end + 5)
            begin = end
    return found


@pytest.mark.parametrize("length", [40, 160])
@pytest.mark.parametrize("seed", range(10))
def test_creep_is_pages_test_on_the_steps(seed: int, length: int) -> None:
    generator = random.Random(seed)
    series = [0.0]
    for _ in range(length):
        series.append(series[-1] + generator.gauss(0.02, 0.05) + 0.4 * (generator.random() < 0.1))
    assert alarms(page_hinkley_score, series) == reference_creep(series)


def test_creep_value_by_value_needs_no_more_for_a_long_series() -> None:
    generator = random.Random(0)
    creep, series, sizes = PageHinkley(), [], []
    for _ in range(400):
        series.append(generator.random())
        before = PageHinkley(**json.loads(json.dumps(asdict(creep))))
        score = creep.add(series[-1], factor=0.5)
        assert before.add(series[-1], factor=0.5) == score or math.isnan(score)
        sizes.append(len(creep.steps))
    assert page_hinkley_score(series, factor=0.5) == score
    assert sizes[100:] == [64] * 300


def test_a_straight_rise_is_the_trend_itself() -> None:
    assert alarms(page_hinkley_score, [0.03 * i for i in range(60)]) == []


def test_creep_needs_four_steps() -> None:
    series = [0.0] * 9 + [5.0]
    assert all(math.isnan(page_hinkley_score(series[:end])) for end in range(10))
    assert page_hinkley_score(series) > 1


@pytest.mark.parametrize("score", [spike_score, page_hinkley_score])
def test_values_that_are_missing_are_passed_over(score: Score) -> None:
    series = [0.1, 0.1, 0.12, 0.1, 0.11, 0.1, 0.13, 0.1, 0.12, 0.11, 0.1, 0.12]
    with_gap = [*series[:8], math.nan, *series[8:]]
    wide = [*series[5:8], math.nan, *series[8:]]
    assert math.isnan(score([*series, math.nan]))
    assert math.isnan(score([*series, math.inf]))
    assert score([*with_gap, 0.9]) > 1
    assert score([0.0] * 5 + wide) == pytest.approx(
        score([0.0] * 5 + [v for v in wide if v == v]), nan_ok=False
    )


@pytest.mark.parametrize("score", [spike_score, page_hinkley_score])
@pytest.mark.parametrize("series", [[], [0.5], [math.nan] * 20, [0.1] * 20 + [math.nan]])
def test_nothing_to_judge(score: Score, series: list[float]) -> None:
    assert math.isnan(score(series))


@pytest.mark.parametrize("score", [spike_score, page_hinkley_score])
def test_the_series_is_all_the_state(score: Score) -> None:
    generator = random.Random(1)
    series = [generator.random() / 10 for _ in range(20)]
    restored = json.loads(json.dumps(series[:12])) + series[12:]
    assert score(restored) == score(series)
    assert series == restored


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spike_score([], warmup=-1), "warmup to be 0 or more, got -1"),
        (lambda: spike_score([], window=3), "window of at least 4 values, got 3"),
        (lambda: spike_score([], floor=0), "floor to be above 0, got 0"),
        (lambda: spike_score([], factor=math.nan), "factor to be 0 or more, got nan"),
        (lambda: page_hinkley_score([], allowance=-0.1), r"allowance to be 0 or more, got -0\.1"),
        (lambda: page_hinkley_score([], floor=-1), "floor to be above 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(call: Callable[[], float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def settling(generator: random.Random, noise: float) -> list[float]:
    """Drift from the previous explanation: large at first, then small."""
    return [0.08 + 0.5 * math.exp(-t / 3) + generator.gauss(0, noise) for t in range(EXPLANATIONS)]


def receding(generator: random.Random, noise: float) -> list[float]:
    """Drift from a pinned reference: rising to a level, at some pace."""
    level, pace = generator.uniform(0.2, 0.7), generator.uniform(2, 12)
    return [
        level * (1 - math.exp(-t / pace)) + generator.gauss(0, noise) for t in range(EXPLANATIONS)
    ]


def rates(score: Score, make: Callable, change: list[float], noise: float) -> tuple[float, float]:
    """Share of runs with a false alarm; share of changes seen before they are over."""
    generator = random.Random(0)
    runs, false, seen = 200, 0, 0
    for _ in range(runs):
        clean = make(generator, noise)
        changed = [value + extra for value, extra in zip(clean, change, strict=True)]
        false += bool(alarms(score, clean))
        seen += any(CHANGE <= i <= CHANGE + 10 for i in alarms(score, changed))
    return false / runs, seen / runs


def spike(size: float) -> list[float]:
    return [size * math.exp(-(t - CHANGE) / 1.5) * (t >= CHANGE) for t in range(EXPLANATIONS)]


def ramp(size: float, length: int) -> list[float]:
    return [size * min(1.0, max(0.0, (t - CHANGE + 1) / length)) for t in range(EXPLANATIONS)]


@pytest.mark.parametrize(
    ("score", "make", "change", "noise", "most_false", "least_seen"),
    [
        (spike_score, settling, spike(0.15), 0.02, 0.02, 0.90),
        (spike_score, settling, spike(0.30), 0.02, 0.02, 0.99),
        (spike_score, settling, spike(0.30), 0.05, 0.25, 0.85),
        (page_hinkley_score, receding, ramp(0.3, 5), 0.01, 0.01, 0.80),
        (page_hinkley_score, receding, ramp(0.5, 10), 0.02, 0.01, 0.80),
        (page_hinkley_score, receding, ramp(0.4, 1), 0.02, 0.01, 0.99),
        (page_hinkley_score, receding, ramp(0.5, 10), 0.05, 0.10, 0.25),
    ],
)
def test_false_alarms_and_changes_that_are_seen(
    score: Score,
    make: Callable,
    change: list[float],
    noise: float,
    most_false: float,
    least_seen: float,
) -> None:
    false, seen = rates(score, make, change, noise)
    print(f"{score.__name__}, noise {noise}, change {max(change):.2f}: false {false}, seen {seen}")
    assert false <= most_false
    assert seen >= least_seen
