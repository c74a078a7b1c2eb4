"""What moved: all samples, the stable ones, the flipped ones, the worst; relative to chance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import naive_measures
import numpy as np
import pytest
import torch
from small_runs import QUIET, events, fit
from torch import Tensor

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import Gradient
from lightning_saliency.callbacks.explanation import Explanation
from lightning_saliency.callbacks.stages.drift import DriftTracker, References
from lightning_saliency.callbacks.stages.sample_table import sample_table
from lightning_saliency.metrics import NO_DRIFT, SIMILARITIES

pytestmark = QUIET

COUNT = 6


def explanation(seed: int, **settings: Any) -> Explanation:
    maps = torch.rand(COUNT, 1, 20, 20, generator=torch.Generator().manual_seed(seed))
    probability = settings.pop("probability", torch.full((COUNT,), 0.5))
    chosen: dict[str, Any] = {
        "saliency": maps,
        "target": torch.arange(COUNT),
        "predicted": torch.arange(COUNT),
        "probability": probability,
        "log_probability": probability.log(),
        **settings,
    }
    return Explanation(**chosen)


def naive(measure: str, current: Tensor, reference: Tensor) -> list[float]:
    pairs = zip(current[:, 0].double().numpy(), reference[:, 0].double().numpy(), strict=True)
    return [naive_measures.MEASURES[measure](a, b) for a, b in pairs]


# Sample 1 flips, sample 2 is less sure, sample 5 shows nothing.
BEFORE = explanation(0)
AFTER = explanation(
    1,
    predicted=torch.tensor([0, 3, 2, 3, 4, 5]),
    probability=torch.tensor([0.5, 0.1, 0.3, 0.55, 0.45, 0.5]),
)
AFTER.saliency[5] = 0.0
STABLE, FLIPPED, COMPARED = [0, 3, 4], [1], [0, 1, 2, 3, 4]


@pytest.mark.parametrize("reference", ["previous", "pinned"])
def test_all_stable_and_flipped_samples_have_means_of_their_own(reference: str) -> None:
    tracker = DriftTracker()
    tracker.measure(BEFORE, 0)
    moved = tracker.measure(AFTER, 1)
    for measure in NO_DRIFT:
        expected = np.array(naive(measure, AFTER.saliency[:5], BEFORE.saliency[:5]))
        found = moved.numbers
        assert found[f"drift/{reference}/{measure}"] == pytest.approx(expected.mean(), abs=1e-6)
        each = moved.samples[f"{reference}/{measure}"]
        np.testing.assert_allclose(each[:5], expected, rtol=2e-6, atol=2e-7)
        assert each[5].isnan()
        if measure in SIMILARITIES:
            for part, chosen in (("stable", STABLE), ("flipped", FLIPPED)):
                value = found[f"drift_{part}/{reference}/{measure}"]
                assert value == pytest.approx(expected[chosen].mean(), abs=1e-6), part
    assert moved.numbers["target/flips"] == pytest.approx(1 / COUNT)
    assert moved.numbers["target/degenerate_frac"] == pytest.approx(1 / COUNT)
    assert moved.numbers["target/probability"] == pytest.approx(2.4 / COUNT)
    logarithms = np.log([0.5, 0.1, 0.3, 0.55, 0.45, 0.5]).mean()
    assert moved.numbers["target/log_probability"] == pytest.approx(logarithms)


def test_the_worst_sample_is_named() -> None:
    tracker = DriftTracker()
    tracker.measure(BEFORE)
    same = tracker.measure(BEFORE).numbers
    assert same["drift_worst/previous/sample"] == -1
    assert same["drift_worst/previous/top10_iou"] == 1
    moved = tracker.measure(AFTER).numbers
    overlaps = naive("top10_iou", AFTER.saliency[:5], BEFORE.saliency[:5])
    assert moved["drift_worst/previous/sample"] == int(np.argmin(overlaps))
    assert moved["drift_worst/previous/top10_iou"] == pytest.approx(min(overlaps))


NOTHING = explanation(0, saliency=torch.zeros(COUNT, 1, 20, 20))


def test_what_was_never_compared_has_no_number() -> None:
    tracker = DriftTracker()
    for numbers in (tracker.measure(NOTHING).numbers for _ in range(3)):
        assert numbers["target/degenerate_frac"] == 1
        found = {name for name in numbers if name.startswith("drift")}
        assert found <= {
            "drift/pinned/epoch",
            "drift_worst/previous/sample",
            "drift_worst/pinned/sample",
        }


def test_what_can_no_longer_be_compared_is_nan_and_never_no_drift() -> None:
    tracker = DriftTracker()
    for each in (BEFORE, AFTER):
        tracker.measure(each)
    numbers = tracker.measure(NOTHING).numbers
    for name in (
        "drift/previous",
        "drift/pinned",
        "drift/previous/ssim",
        "drift_stable/pinned/ssim",
    ):
        assert math.isnan(numbers[name]), name


def test_drift_is_nothing_for_equal_maps_and_all_for_maps_with_nothing_in_common() -> None:
    tracker = DriftTracker()
    ramp = torch.linspace(0, 1, 400).view(1, 1, 20, 20).repeat(COUNT, 1, 1, 1)
    first = tracker.measure(explanation(0, saliency=ramp)).numbers
    assert not {"drift/previous", "drift/pinned", "target/flips"} & set(first)
    assert not tracker.measure(explanation(0, saliency=ramp)).samples["previous/ssim"].isnan().any()
    still = tracker.measure(explanation(0, saliency=ramp)).numbers
    assert (still["drift/previous"], still["drift/pinned"]) == (0, 0)
    other = tracker.measure(explanation(0, saliency=ramp.flip(2, 3))).numbers
    assert (other["drift/previous"], other["drift/pinned"]) == (1, 1)


def test_the_pinned_reference_counts_once_it_is_settled() -> None:
    tracker = DriftTracker(References(2))
    found = [tracker.measure(explanation(seed), seed).numbers for seed in range(4)]
    assert ["drift/pinned" in numbers for numbers in found] == [False, False, False, True]
    assert ["drift/previous" in numbers for numbers in found] == [False, True, True, True]


def test_drift_relative_to_chance_is_one_for_samples_exchanged() -> None:
    tracker = DriftTracker()
    tracker.measure(BEFORE)
    same = tracker.measure(BEFORE).numbers
    exchanged = explanation(0, saliency=BEFORE.saliency.roll(1, 0))
    moved = tracker.measure(exchanged).numbers
    for measure in SIMILARITIES:
        assert same[f"drift_relative/previous/{measure}"] == 0
        assert moved[f"drift_relative/previous/{measure}"] == pytest.approx(1.0)
        chance = np.mean(naive(measure, BEFORE.saliency, BEFORE.saliency.roll(1, 0)))
        assert moved[f"drift_level/chance/{measure}"] == pytest.approx(chance, abs=1e-6)


def test_drift_relative_to_noise_is_zero_up_to_it() -> None:
    tracker = DriftTracker()
    tracker.measure(BEFORE)
    mixed = 0.5 * BEFORE.saliency + 0.5 * AFTER.saliency
    plain = DriftTracker()
    plain.load_state_dict(tracker.state_dict())
    moved = plain.measure(explanation(0, saliency=mixed)).numbers
    tracker.noise = {name: moved[f"drift/previous/{name}"] for name in NO_DRIFT}
    relative = tracker.measure(explanation(0, saliency=mixed)).numbers
    for measure in SIMILARITIES:
        assert moved[f"drift_relative/previous/{measure}"] > 0
        assert relative[f"drift_relative/previous/{measure}"] == 0


def test_the_state_holds_all_that_the_next_comparison_needs() -> None:
    tracker, other = DriftTracker(), DriftTracker()
    tracker.measure(BEFORE)
    tracker.noise = dict.fromkeys(NO_DRIFT, 0.9)
    other.load_state_dict(tracker.state_dict())
    assert other.measure(AFTER, 1).numbers == pytest.approx(
        tracker.measure(AFTER, 1).numbers, abs=0, nan_ok=True
    )


def rows_of(table: str) -> list[list[str]]:
    lines = table.splitlines()
    return [[c.strip() for c in line.strip("|").split(" | ")] for line in lines]


def test_the_table_has_a_row_for_each_sample_the_worst_first() -> None:
    tracker = DriftTracker()
    tracker.measure(BEFORE)
    moved = tracker.measure(AFTER)
    head, _, *rows = rows_of(sample_table(AFTER, moved, lambda index: f"a|{index}"))
    assert head == ["#", "class", "predicted", "p", "moved", "from pinned"]
    assert len(rows) == COUNT
    assert all(len(row) == len(head) for row in rows)
    overlaps = naive("top10_iou", AFTER.saliency[:5], BEFORE.saliency[:5])
    assert [int(row[0]) for row in rows] == [*np.argsort(overlaps, kind="stable"), 5]
    by_sample = {int(row[0]): row for row in rows}
    assert by_sample[1][1:4] == ["a\\|1", "a\\|3 ✗", "0.10"]
    assert by_sample[0][2] == "a\\|0 ✓"
    assert float(by_sample[0][4]) == pytest.approx(1 - overlaps[0], abs=6e-3)
    assert by_sample[0][4] == by_sample[0][5]
    assert by_sample[5][4:] == ["-", "-"]


def test_the_table_of_the_first_explanation_has_dashes_and_no_drift() -> None:
    _, _, *rows = rows_of(sample_table(BEFORE, DriftTracker().measure(BEFORE), str))
    assert [row[3:] for row in rows] == [["0.50", "-", "-"]] * COUNT


def test_a_long_table_is_cut_off() -> None:
    many = explanation(
        0,
        saliency=torch.rand(30, 1, 8, 8),
        target=torch.zeros(30).long(),
        predicted=torch.zeros(30).long(),
        probability=torch.ones(30),
    )
    table = sample_table(many, DriftTracker().measure(many), str)
    assert len(table.splitlines()) == 2 + 20 + 2
    assert table.endswith("And 10 more, which moved less.")


def test_a_run_logs_the_table_and_the_histograms(tmp_path: Path) -> None:
    callback = SaliencyCallback(Gradient(), samples=3, class_names=list("abcde"), log="full")
    fit(tmp_path, callback)
    found = events(tmp_path)
    tag = "saliency_drift_samples/gradient"
    texts = [e.tensor_proto.string_val[0].decode() for e in found.Tensors(f"{tag}/text_summary")]
    assert len(texts) == 2
    assert "| 0 | a |" in texts[0]
    for reference in ("previous", "pinned"):
        steps = [e.step for e in found.Histograms(f"{tag}/{reference}")]
        assert steps == [7]
