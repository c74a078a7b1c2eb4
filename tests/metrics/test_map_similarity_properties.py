"""Properties of the measures on maps that hypothesis makes up."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from torch import Tensor

from lightning_saliency.metrics import MEASURES, NO_DRIFT, degenerate, drift_amount, top10

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))
FINITE = st.one_of(
    st.sampled_from([0.0, 0.0, 0.0, 1.0, -1.0]),
    st.floats(-10, 10, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
ANYTHING = st.one_of(FINITE, st.floats(width=32))


def maps_of(values: st.SearchStrategy[float], count: int) -> st.SearchStrategy[Tensor]:
    return SHAPES.flatmap(
        lambda size: hnp.arrays(np.float32, (count, 1, *size), elements=values).map(
            torch.from_numpy
        )
    )


names = pytest.mark.parametrize("name", MEASURES)
relaxed = settings(max_examples=60, deadline=None)


@names
@relaxed
@given(maps=maps_of(ANYTHING, 2))
def test_range_and_nan_exactly_for_degenerate_maps(name: str, maps: Tensor) -> None:
    value = MEASURES[name](maps[:1], maps[1:])
    assert bool(value.isnan()) == bool(degenerate(maps).any())
    low, high = MEASURES[name].bounds
    assert value.isnan() or low <= float(value) <= high


@names
@relaxed
@given(maps=maps_of(FINITE, 1))
def test_identity_is_exact(name: str, maps: Tensor) -> None:
    value = float(MEASURES[name](maps, maps.clone()))
    assert math.isnan(value) if degenerate(maps) else value == NO_DRIFT[name]


@names
@relaxed
@given(maps=maps_of(FINITE, 2))
def test_exchanging_the_maps(name: str, maps: Tensor) -> None:
    there, back = MEASURES[name](maps[:1], maps[1:]), MEASURES[name](maps[1:], maps[:1])
    sign = -1 if name == "log2_norm_ratio" else 1
    np.testing.assert_allclose(there, sign * back, rtol=1e-6, atol=1e-9)


@names
@relaxed
@given(
    maps=maps_of(st.integers(-50, 50).map(float), 2),
    powers=st.tuples(st.integers(-100, 100), st.integers(-100, 100)),
)
def test_positive_scaling(name: str, maps: Tensor, powers: tuple[int, int]) -> None:
    # By powers of two, so that nothing is rounded.
    scaled = maps * torch.tensor([2.0**power for power in powers])[:, None, None, None]
    change = powers[0] - powers[1] if name == "log2_norm_ratio" else 0
    before, after = MEASURES[name](maps[:1], maps[1:]), MEASURES[name](scaled[:1], scaled[1:])
    np.testing.assert_allclose(after, before + change, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["top10_iou", "spearman", "ssim", "center_shift"])
@relaxed
@given(maps=maps_of(st.integers(-50, 50).map(float), 2), offset=st.integers(-1000, 1000))
def test_adding_a_constant(name: str, maps: Tensor, offset: int) -> None:
    before, after = MEASURES[name](maps[:1], maps[1:]), MEASURES[name](maps[:1] + offset, maps[1:])
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["top10_iou", "spearman"])
@relaxed
@given(maps=maps_of(st.integers(-20, 20).map(float), 2))
def test_an_increasing_function_of_the_values(name: str, maps: Tensor) -> None:
    before, after = MEASURES[name](maps[:1], maps[1:]), MEASURES[name](maps[:1] ** 3, maps[1:])
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-9)


@names
@relaxed
@given(maps=maps_of(FINITE, 2))
def test_turning_both_maps_around(name: str, maps: Tensor) -> None:
    turned = maps.flip(2, 3)
    before, after = MEASURES[name](maps[:1], maps[1:]), MEASURES[name](turned[:1], turned[1:])
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-7)


@names
@relaxed
@given(maps=maps_of(FINITE, 2))
def test_drift_is_zero_for_equal_maps_and_never_negative(name: str, maps: Tensor) -> None:
    amount = drift_amount(name, MEASURES[name](maps[:1], maps[1:]))
    assert amount.isnan() or amount >= 0
    assert drift_amount(name, NO_DRIFT[name]) == 0


@relaxed
@given(maps=maps_of(FINITE, 1))
def test_top10_marks_the_largest_and_no_more_than_a_tenth_of_distinct_ones(maps: Tensor) -> None:
    marked = top10(maps)
    if degenerate(maps):
        assert not marked.any()
        return
    assert 0 < int(marked.sum()) < maps.numel()
    assert maps[marked].min() > maps[~marked].max()
    if maps.unique().numel() == maps.numel():
        assert int(marked.sum()) == max(1, round(0.1 * maps.numel()))
