"""Shares of the evidence, gains, and where maps lie on them, against values worked out by hand."""

import math
from itertools import product

import pytest
import torch

from lightning_saliency.errors import InputError
from lightning_saliency.metrics import (
    EvidenceProfile,
    evidence_gain,
    evidence_moved,
    evidence_overlap,
    evidence_shares,
    gained_cells,
    log_odds,
    sign_flip_test,
)
from lightning_saliency.metrics.evidence import cell_mass, mean_of_probes, prediction_information

nan = math.nan


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_log_odds_are_those_of_the_softmax() -> None:
    logits, target = random(6, 4).double(), torch.tensor([0, 1, 2, 3, 0, 1])
    for row, value in enumerate(log_odds(logits, target)):
        p = math.exp(logits[row, target[row]]) / sum(math.exp(z) for z in logits[row])
        assert float(value) == pytest.approx(math.log(p / (1 - p)))


def test_log_odds_do_not_saturate() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]]).half()
    assert log_odds(logits, torch.tensor([0])).tolist() == [pytest.approx(200 - math.log(2))]


@pytest.mark.parametrize(("shape", "targets"), [((3, 1), 3), ((3, 2), 2), ((3,), 3)])
def test_log_odds_refuse_what_has_no_odds(shape: tuple[int, ...], targets: int) -> None:
    with pytest.raises(InputError, match="at least two classes"):
        log_odds(torch.zeros(shape), torch.zeros(targets, dtype=torch.int64))


def test_shares_are_those_of_a_loop() -> None:
    clean, without = random(5), random(5, 7, seed=1)
    for row, shares in enumerate(evidence_shares(clean, without)):
        lost = [max(0.0, float(clean[row] - score)) for score in without[row]]
        expected = [part / sum(lost) for part in lost] if sum(lost) else [nan] * 7
        assert shares.tolist() == pytest.approx(expected, nan_ok=True)


def test_shares_are_free_of_the_scale_of_the_scores() -> None:
    clean, without = random(5).double(), random(5, 7, seed=1).double()
    assert torch.allclose(
        evidence_shares(10 * clean, 10 * without), evidence_shares(clean, without), equal_nan=True
    )


def test_what_loses_nothing_is_left_out() -> None:
    clean = torch.tensor([1.0, 1.0, nan, 1.0])
    without = torch.tensor([[2.0, 1.0], [0.0, nan], [0.0, 0.0], [0.0, 0.5]])
    shares = evidence_shares(clean, without)
    assert shares.isnan().all(1).tolist() == [True, True, True, False]
    profile = EvidenceProfile(2)
    profile.update(clean, without)
    assert profile.compute().tolist() == pytest.approx([2 / 3, 1 / 3])
    profile.reset()
    profile.update(clean[:0], without[:0])
    assert profile.compute().isnan().all()


def test_probes_are_averaged_where_they_found_something() -> None:
    one, other = torch.tensor([[1.0, 0.0], [nan, nan]]), torch.tensor([[0.0, 1.0], [0.25, 0.75]])
    assert mean_of_probes([one, other]).tolist() == [[0.5, 0.5], [0.25, 0.75]]


def test_the_metric_is_the_mean_over_batches() -> None:
    clean, without = random(9).abs() + 3, random(9, 4, seed=1)
    profile = EvidenceProfile(4)
    for part in (slice(0, 2), slice(2, 2), slice(2, 9)):
        profile.update(clean[part], without[part])
    assert torch.allclose(profile.compute(), evidence_shares(clean, without).mean(0))
    with pytest.raises(InputError, match="4 parts"):
        profile.update(clean, without[:, :3])
    with pytest.raises(InputError, match="at least 2 parts"):
        EvidenceProfile(1)


def test_gain_and_distance() -> None:
    before, now = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.35, 0.45])
    assert float(evidence_gain(before, now)) == pytest.approx(0.25)
    assert float(evidence_moved(before, now)) == pytest.approx(0.3)
    assert float(evidence_gain(now, now)) == float(evidence_moved(now, now)) == 0.0
    assert math.isnan(float(evidence_gain(torch.full((3,), nan), now)))
    with pytest.raises(InputError, match="same parts"):
        evidence_gain(before[:2], now)


def test_the_place_that_gained_is_connected() -> None:
    gain = torch.tensor(
        [
            [0.00, 0.06, 0.00, 0.09],
            [0.10, 0.00, 0.00, 0.00],
            [0.04, 0.00, 0.00, 0.05],
            [0.00, 0.00, 0.08, -0.3],
        ]
    )
    # The corner touches; what gained as much elsewhere, or less than half, does not belong to it.
    assert gained_cells(gain).nonzero().tolist() == [[0, 1], [1, 0]]
    with pytest.raises(InputError, match="grid"):
        gained_cells(gain[:3])


@pytest.mark.parametrize("count", [1, 3, 6])
def test_the_sign_flip_test_counts_the_patterns(count: int) -> None:
    values = random(count, seed=count).abs() - 0.3
    patterns = list(product((-1, 1), repeat=count))
    sums = [sum(s * float(v) for s, v in zip(signs, values, strict=True)) for signs in patterns]
    at_least = sum(total >= float(values.sum()) - 1e-6 for total in sums)
    assert sign_flip_test(values) == pytest.approx(at_least / 2**count)


def test_the_sign_flip_test_of_many() -> None:
    risen = random(16).abs() + 0.1
    # Only one pattern of 2^16 is as large, which is one of those that are looked at.
    assert sign_flip_test(risen) == 1 / 4096
    assert sign_flip_test(torch.cat([risen, -risen])) > 0.3
    assert sign_flip_test(torch.full((3,), nan)) != sign_flip_test(risen[:3]) == 1 / 8


def test_cell_mass_divides_pixels_among_cells() -> None:
    # 3 x 3 pixels on 2 x 2 cells: the middle row and column are shared.
    maps = torch.zeros(2, 1, 3, 3)
    maps[0, 0, 0, 0], maps[0, 0, 1, 1], maps[1, 0, 1, 2] = 3.0, -1.0, 2.0
    mass = cell_mass(maps, 2)
    assert mass[0].tolist() == pytest.approx([3.25 / 4, 0.25 / 4, 0.25 / 4, 0.25 / 4])
    assert mass[1].tolist() == pytest.approx([0, 0.5, 0, 0.5])


def test_cell_mass_of_fitting_maps_is_a_loop() -> None:
    maps = random(2, 1, 6, 9)
    for row, mass in zip(maps[:, 0].abs(), cell_mass(maps, 3), strict=True):
        cells = [
            row[2 * i : 2 * i + 2, 3 * j : 3 * j + 3].sum() for i in range(3) for j in range(3)
        ]
        assert mass.tolist() == pytest.approx([float(cell / row.sum()) for cell in cells])


def test_overlap_of_maps_and_evidence() -> None:
    shares = torch.tensor([[0.5, 0.5, 0.0, 0.0]] * 4)
    maps = torch.zeros(4, 1, 2, 2)
    maps[0, 0, 0] = 1.0
    maps[1, 0, 1] = 1.0
    maps[2] = 1.0
    assert evidence_overlap(maps, shares).tolist() == pytest.approx([1, 0, 0.5, nan], nan_ok=True)
    with pytest.raises(InputError, match="square grid"):
        evidence_overlap(maps, shares[:, :3])


def test_prediction_information_by_hand() -> None:
    even = torch.full((4, 3), 1 / 3)
    assert float(prediction_information(even)) == pytest.approx(0.0, abs=1e-6)
    same = torch.tensor([[0.7, 0.2, 0.1]] * 5)
    assert float(prediction_information(same)) == pytest.approx(0.0, abs=1e-6)
    told = torch.eye(3)[[0, 1, 2, 0, 1, 2]]
    assert float(prediction_information(told)) == pytest.approx(1.0)
    # Two pictures of 1,000 classes: log(2) is all that can be told of them.
    few = torch.eye(1000)[[7, 500]]
    assert float(prediction_information(few)) == pytest.approx(1.0)
    half = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    bits = 1 + 0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)
    assert float(prediction_information(half)) == pytest.approx(bits)


def test_prediction_information_is_that_of_the_joint_distribution() -> None:
    probability = random(6, 4).mul(2).softmax(1)
    joint = probability.double() / 6
    product_of_both = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    expected = float((joint * (joint / product_of_both).log()).sum()) / math.log(4)
    assert float(prediction_information(probability)) == pytest.approx(expected, rel=1e-5)


def test_prediction_information_of_what_is_none() -> None:
    assert math.isnan(prediction_information(torch.tensor([[nan, nan], [0.5, 0.5]])))
    for shape in ((3,), (1, 4), (4, 1)):
        with pytest.raises(InputError, match="two pictures and classes"):
            prediction_information(torch.ones(shape))
