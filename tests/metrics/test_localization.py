import math
from collections.abc import Callable
from itertools import permutations

import hypothesis.strategies as st
import naive_measures
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from torch import Tensor
from torchmetrics.functional.retrieval import retrieval_r_precision

from lightning_saliency.errors import InputError
from lightning_saliency.metrics import (
    energy_inside,
    rank_accuracy,
    region_area,
    region_mass,
    top10_region_iou,
)

MEASURES = [energy_inside, region_mass, rank_accuracy, top10_region_iou]
every_measure = pytest.mark.parametrize("measure", MEASURES)
Measure = Callable[[Tensor, Tensor], Tensor]
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": lambda u: u,
    "signed": lambda u: u - 0.5,
    "sparse": lambda u: u * ((u < 0.05) | (u == u.amax((2, 3), keepdim=True))),
    "five_levels": lambda u: (4 * u).round() / 4,
    "on_an_offset": lambda u: 100 + u,
    "huge": lambda u: 1e30 * (u - 0.2),
    "tiny": lambda u: 1e-30 * (u - 0.2),
}


def data(kind: str, count: int = 4, size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(count, 1, size, size, generator=generator, dtype=torch.float64)
    regions = torch.zeros(count, 1, size, size, dtype=torch.bool)
    for i in range(count):
        regions[i, 0, i : i + 3, 2 : 4 + 2 * i] = True
    return KINDS[kind](u).float(), regions


def naive_energy(image: np.ndarray, region: np.ndarray) -> float:
    positive = np.maximum(image, 0)
    return float(positive[region].sum() / positive.sum())


def naive_mass(image: np.ndarray, region: np.ndarray) -> float:
    return float(np.abs(image)[region].sum() / np.abs(image).sum())


def naive_rank(image: np.ndarray, region: np.ndarray) -> float:
    """Mean over random orders of equal values, as a sum over the tied pixels."""
    flat, inside, places = image.ravel(), region.ravel(), int(region.sum())
    won = 0.0
    for value, counts in zip(flat, inside, strict=True):
        above, tied = int((flat > value).sum()), int((flat == value).sum())
        won += counts * min(1.0, max(0.0, (places - above) / tied))
    return won / places


def naive_iou(image: np.ndarray, region: np.ndarray) -> float:
    largest, inside = naive_measures.top10(image), set(np.flatnonzero(region.ravel()))
    return len(largest & inside) / len(largest | inside)


NAIVE = {
    energy_inside: naive_energy,
    region_mass: naive_mass,
    rank_accuracy: naive_rank,
    top10_region_iou: naive_iou,
}


@pytest.mark.parametrize("measure", [energy_inside, region_mass])
def test_sums_that_float32_cannot_hold(measure: Measure) -> None:
    maps, regions = data("uniform", size=40)
    torch.testing.assert_close(measure(3e38 * maps, regions), measure(maps, regions))


@every_measure
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [12, 30])
def test_equal_to_the_definition(measure: Measure, kind: str, size: int) -> None:
    maps, regions = data(kind, size=size)
    values = measure(maps, regions)
    assert values.shape == (4,)
    assert values.dtype == torch.float32
    pairs = zip(maps[:, 0].double().numpy(), regions[:, 0].numpy(), strict=True)
    np.testing.assert_allclose(values, [NAIVE[measure](*pair) for pair in pairs], rtol=1e-6)


def test_rank_accuracy_is_the_mean_over_all_orders_of_equal_pixels() -> None:
    image = torch.tensor([[3.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    region = torch.tensor([[True, True, False], [True, False, False]])
    outcomes = []
    for order in permutations(range(6)):
        largest = sorted(order, key=lambda i: -float(image.flatten()[i]))[:3]
        outcomes.append(float(region.flatten()[largest].float().mean()))
    value = rank_accuracy(image[None, None], region[None, None])
    assert float(value) == pytest.approx(np.mean(outcomes))


def test_rank_accuracy_is_r_precision_without_ties() -> None:
    maps, regions = data("signed")
    theirs = [
        float(retrieval_r_precision(image.flatten(), region.flatten()))
        for image, region in zip(maps, regions, strict=True)
    ]
    np.testing.assert_allclose(rank_accuracy(maps, regions), theirs, rtol=1e-6)


@every_measure
def test_all_on_the_region_is_one_and_all_beside_it_zero(measure: Measure) -> None:
    _, regions = data("uniform", count=1)
    noise = 1 + torch.rand(1, 1, 12, 12)
    assert float(measure(noise * ~regions, regions)) == 0.0
    # The overlap is 1 only if the region is a tenth of the picture; see the next test.
    if measure is not top10_region_iou:
        assert float(measure(noise * regions, regions)) == 1.0


def test_top10_on_exactly_a_tenth_is_one() -> None:
    maps = torch.zeros(1, 1, 10, 10)
    maps[..., 4, :] = torch.arange(1.0, 11.0)
    assert float(top10_region_iou(maps, maps > 0)) == 1.0


@every_measure
@pytest.mark.parametrize("value", [0.0, 0.3, -2.0, torch.nan, torch.inf])
def test_a_degenerate_map_gives_nan_and_leaves_the_others_alone(
    measure: Measure, value: float
) -> None:
    maps, regions = data("uniform")
    before = measure(maps, regions)
    maps[1] = value
    after = measure(maps, regions)
    assert after[1].isnan()
    assert torch.equal(after[[0, 2, 3]], before[[0, 2, 3]])


def test_an_empty_region() -> None:
    maps, regions = data("uniform")
    regions[2] = False
    for measure in (energy_inside, rank_accuracy, top10_region_iou):
        assert measure(maps, regions).isnan().tolist() == [False, False, True, False]
    assert region_mass(maps, regions)[2] == 0.0
    assert region_area(regions)[2] == 0.0


def test_negative_values() -> None:
    maps = torch.tensor([[4.0, -4.0], [-2.0, 0.0]])[None, None]
    left = torch.tensor([[True, False], [True, False]])[None, None]
    assert float(energy_inside(maps, left)) == 1.0
    assert float(region_mass(maps, left)) == pytest.approx(0.6)
    # Less the minimum: 8, 0, 2, 4
    assert float(energy_inside(maps, left, subtract_minimum=True)) == pytest.approx(10 / 14)
    assert float(region_mass(maps, left, subtract_minimum=True)) == pytest.approx(10 / 14)


def test_without_a_positive_value_there_is_no_energy() -> None:
    maps, regions = data("uniform")
    assert energy_inside(-maps, regions).isnan().all()
    torch.testing.assert_close(region_mass(-maps, regions), region_mass(maps, regions))


def test_an_offset_hides_the_region_unless_it_is_subtracted() -> None:
    maps, regions = data("on_an_offset")
    np.testing.assert_allclose(energy_inside(maps, regions), region_area(regions), rtol=0.01)
    subtracted = energy_inside(maps, regions, subtract_minimum=True)
    plain = energy_inside(maps - maps.amin((2, 3), keepdim=True), regions)
    torch.testing.assert_close(subtracted, plain)


@every_measure
def test_one_region_for_all_images(measure: Measure) -> None:
    maps, regions = data("signed")
    one = regions[1:2]
    assert torch.equal(measure(maps, one), measure(maps, one.expand(4, -1, -1, -1)))


def test_region_area_is_the_share_of_the_pixels() -> None:
    _, regions = data("uniform")
    assert region_area(regions).tolist() == pytest.approx([6 / 144, 12 / 144, 18 / 144, 24 / 144])


@every_measure
def test_no_maps_double_maps_and_gradients(measure: Measure) -> None:
    maps, regions = data("signed")
    assert measure(maps[:0], regions[:0]).shape == (0,)
    assert measure(maps.double(), regions).dtype == torch.float64
    assert measure(maps.half() + 0, regions).dtype == torch.float32
    assert not measure(maps.requires_grad_(), regions).requires_grad


@every_measure
def test_what_does_not_fit_together_is_refused(measure: Measure) -> None:
    maps, regions = data("uniform")
    with pytest.raises(InputError, match=r"regions as a bool tensor, got torch\.float32"):
        measure(maps, regions.float())
    with pytest.raises(InputError, match="regions as a bool tensor, got list"):
        measure(maps, [True])
    with pytest.raises(InputError, match=r"shape \(4, 1, 12, 12\) or \(1, 1, 12, 12\) on cpu"):
        measure(maps, regions[:2])
    with pytest.raises(InputError, match=r"got \(4, 1, 12, 6\) on cpu"):
        measure(maps, regions[..., :6])
    with pytest.raises(InputError, match=r"got shape \(4, 12, 12\)"):
        measure(maps[:, 0], regions[:, 0])


@every_measure
@settings(max_examples=60, deadline=None)
@given(
    maps=hnp.arrays(np.float32, (1, 1, 5, 6), elements=st.floats(width=32)),
    regions=hnp.arrays(np.bool_, (1, 1, 5, 6)),
)
def test_every_value_is_a_share_or_nan(
    measure: Measure, maps: np.ndarray, regions: np.ndarray
) -> None:
    value = float(measure(torch.from_numpy(maps), torch.from_numpy(regions)))
    assert math.isnan(value) or 0 <= value <= 1 + 1e-6


@every_measure
@settings(max_examples=40, deadline=None)
@given(
    maps=hnp.arrays(np.float32, (1, 1, 5, 6), elements=st.integers(-9, 9).map(float)),
    regions=hnp.arrays(np.bool_, (1, 1, 5, 6)),
    power=st.integers(-100, 100),
)
def test_positive_scaling_changes_nothing(
    measure: Measure, maps: np.ndarray, regions: np.ndarray, power: int
) -> None:
    image, region = torch.from_numpy(maps), torch.from_numpy(regions)
    torch.testing.assert_close(
        measure(image * 2.0**power, region), measure(image, region), equal_nan=True
    )


@settings(max_examples=40, deadline=None)
@given(
    maps=hnp.arrays(np.float32, (1, 1, 5, 6), elements=st.floats(-5, 5, width=32)),
    regions=hnp.arrays(np.bool_, (1, 1, 5, 6)),
)
def test_a_region_and_the_rest_share_the_whole(maps: np.ndarray, regions: np.ndarray) -> None:
    image, region = torch.from_numpy(maps), torch.from_numpy(regions)
    total = region_mass(image, region) + region_mass(image, ~region)
    assert total.isnan() or float(total) == pytest.approx(1.0)
