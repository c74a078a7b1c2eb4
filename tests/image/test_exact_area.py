"""Masks of exactly a given area."""

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from lightning_saliency.image.exact_area import exact_area
from lightning_saliency.image.smooth_mask import SmoothMask

AREAS = torch.tensor([0.03, 0.4, 1.0], dtype=torch.float64)


def smooth_masks(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    row = torch.linspace(0, 3, 21, dtype=dtype).sin().square()
    column = torch.linspace(0, 2, 34, dtype=dtype).cos().square()
    return torch.stack(
        [row[:, None] * column, 1 - row[:, None] * column, row[:, None] + 0 * column]
    )


@pytest.mark.parametrize("contrast", [1.0, 4.0, 30.0])
def test_equals_the_root_that_scipy_finds(contrast: float) -> None:
    came = exact_area(smooth_masks(), AREAS, contrast)
    for found, mask, area in zip(came[:2], smooth_masks(), AREAS.tolist(), strict=False):

        def at(level: float, mask: torch.Tensor = mask) -> torch.Tensor:
            return torch.sigmoid(contrast * (mask - level))

        level = brentq(lambda x, at=at, area=area: float(at(x).mean()) - area, -9, 9, xtol=1e-14)
        torch.testing.assert_close(found, at(level), rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_area_is_exact(dtype: torch.dtype) -> None:
    came = exact_area(smooth_masks(dtype), AREAS.to(dtype))
    assert came.dtype == dtype
    torch.testing.assert_close(came.mean((1, 2)), AREAS.to(dtype), rtol=0, atol=1e-6)
    assert came.min() >= 0
    assert came.max() <= 1


def test_mask_that_is_the_same_everywhere_stays_so() -> None:
    came = exact_area(torch.full((1, 5, 7), 0.7), torch.tensor([0.2]))
    torch.testing.assert_close(came, torch.full((1, 5, 7), 0.2), rtol=0, atol=1e-6)


def test_binary_mask_of_that_area_stays_as_it_is() -> None:
    mask = torch.zeros(1, 10, 10)
    mask[:, 2:4, 3:8] = 1
    torch.testing.assert_close(exact_area(mask, torch.tensor([0.1])), mask, rtol=0, atol=1e-5)


def test_order_of_the_pixels_is_kept() -> None:
    mask = smooth_masks()[:1]
    came = exact_area(mask, AREAS[:1])
    order = mask.flatten().argsort()
    assert (came.flatten()[order].diff() >= 0).all()


@pytest.mark.parametrize("kind", ["any", "binary", "almost the same"])
@pytest.mark.parametrize("contrast", [0.5, 4.0, 30.0, 200.0])
def test_area_is_exact_for_masks_of_any_kind(kind: str, contrast: float) -> None:
    mask = torch.rand(6, 40, 50, generator=torch.Generator().manual_seed(2))
    if kind == "binary":
        mask = (mask > 0.9).float()
    if kind == "almost the same":
        mask = 0.5 + 1e-3 * mask
    area = torch.tensor([0.001, 0.05, 0.1, 0.5, 0.97, 1.0])
    came = exact_area(mask, area, contrast)
    torch.testing.assert_close(came.mean((1, 2)), area, rtol=0, atol=2e-5)


@pytest.mark.parametrize("contrast", [1.0, 8.0])
def test_slope_is_the_derivative(contrast: float) -> None:
    mask = smooth_masks()[:2, ::4, ::5].clone().requires_grad_()
    area = torch.tensor([0.2, 0.6], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: exact_area(m, area, contrast), mask)


def test_slope_moves_area_but_makes_none() -> None:
    mask = smooth_masks()[:1].clone().requires_grad_()
    gradient = torch.rand_like(mask, requires_grad=False)
    (slope,) = torch.autograd.grad(exact_area(mask, AREAS[:1], 4.0), mask, gradient)
    assert slope.abs().max() > 0.01
    assert slope.sum().abs() < 1e-9
    # An area of everything cannot change.
    (still,) = torch.autograd.grad(exact_area(mask, AREAS[2:], 4.0), mask, gradient)
    assert torch.isfinite(still).all()


@pytest.mark.parametrize("step", [1, 2, 4])
@pytest.mark.parametrize("size", [(16, 16), (15, 19), (30, 30)])
def test_a_mask_is_the_same_to_the_last_bit_whatever_is_beside_it(
    size: tuple[int, int], step: int
) -> None:
    smooth = SmoothMask(size, step, 3.0 * step)
    grid = torch.rand(32, *smooth.grid_size, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(32, *size, generator=torch.Generator().manual_seed(1))
    areas = torch.linspace(0.05, 0.3, 32)

    def mask_and_slope(count: int) -> tuple[Tensor, Tensor]:
        some = grid[:count].clone().requires_grad_()
        mask = exact_area(smooth(some), areas[:count], 12.0)
        (slope,) = torch.autograd.grad(mask, some, weights[:count])
        return mask.detach(), slope

    all_masks, all_slopes = mask_and_slope(32)
    for count in (2, 3, 16):
        masks, slopes = mask_and_slope(count)
        assert torch.equal(masks, all_masks[:count])
        assert torch.equal(slopes, all_slopes[:count])
