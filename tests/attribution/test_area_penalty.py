"""The area penalty against the paper's, which sorts each mask."""

import pytest
import torch
from torch import Tensor

from lightning_saliency.attribution.mask_search.area_constraint import AreaPenalty, area_step

AREAS = (0.02, 0.1, 0.35, 1.0)


def masks(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.rand(4, 11, 13, generator=generator, dtype=torch.float64).to(dtype)


def naive_penalty(mask: Tensor, areas: tuple[float, ...], ones: list[int]) -> list[float]:
    penalties = []
    for values, on in zip(mask.flatten(1).tolist(), ones, strict=True):
        step = [0.0] * (len(values) - on) + [1.0] * on
        pairs = zip(sorted(values), step, strict=True)
        penalties.append(sum((a - b) ** 2 for a, b in pairs) / len(values))
    return penalties


def test_equals_the_naive_sort() -> None:
    penalty = AreaPenalty(AREAS, 143)
    ones = [3, 15, 51, 143]
    assert penalty.on.tolist() == ones
    wanted = torch.tensor(naive_penalty(masks(), AREAS, ones), dtype=torch.float64)
    torch.testing.assert_close(penalty(masks()), wanted)


@pytest.mark.parametrize("values", [1000, 7, 1])
def test_slope_is_that_of_a_stable_sort(values: int) -> None:
    # With few values there are many ties.
    mask = ((masks() * values).round() / values).requires_grad_()
    step = torch.arange(143, 0, -1) <= AreaPenalty(AREAS, 143).on[:, None]
    ordered = mask.flatten(1).sort(dim=1, stable=True).values
    (wanted,) = torch.autograd.grad((ordered - step.double()).square().mean(1).sum(), mask)
    (came,) = torch.autograd.grad(AreaPenalty(AREAS, 143)(mask).sum(), mask)
    torch.testing.assert_close(came, wanted)


def test_slope_is_the_derivative() -> None:
    assert torch.autograd.gradcheck(AreaPenalty(AREAS, 143), masks().requires_grad_())


def test_a_mask_of_its_area_costs_nothing() -> None:
    mask = torch.zeros(1, 10, 10)
    mask[0, 2:5, 4:9] = 1
    assert AreaPenalty((0.15,), 100)(mask).item() == 0
    assert AreaPenalty((0.14,), 100)(mask).item() == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("area", "pixels", "ones"), [(0.1, 100, 10), (0.29, 100, 29), (0.101, 100, 11), (1e-9, 100, 1)]
)
def test_number_of_ones(area: float, pixels: int, ones: int) -> None:
    # 0.29 * 100 is 28.999999999999996 in floating point, 0.1 * 3 more than 0.3.
    assert AreaPenalty((area,), pixels).on.tolist() == [ones]


@pytest.mark.parametrize("area", [0.05, 0.1, 0.12, 0.2, 0.3, 0.5, 0.7, 0.9])
def test_number_of_ones_is_that_of_torchray(area: float) -> None:
    pixels = 38 * 46
    assert AreaPenalty((area,), pixels).on.item() == pixels - int(pixels * (1 - area))


def test_of_those_that_tie_the_last_are_within() -> None:
    flat = torch.tensor([[0.5, 0.9, 0.5, 0.1], [0.2, 0.2, 0.2, 0.2]])
    step = area_step(flat, torch.tensor([2, 1]), 2)
    assert step.int().tolist() == [[0, 1, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype(dtype: torch.dtype) -> None:
    assert AreaPenalty(AREAS, 143)(masks(dtype)).dtype == dtype
