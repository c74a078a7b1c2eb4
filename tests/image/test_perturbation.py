"""Levels of perturbation and the pictures between them, against loops over the pixels."""

import math

import pytest
import torch
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.image.perturbation import PerturbationKind, blend, perturbation_levels


def pictures(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def naive_blur(image: Tensor, sigma: float, truncate: float) -> Tensor:
    """The weighted mean around each pixel, with the nearest pixel beyond the edge."""
    radius = math.ceil(truncate * sigma)
    blurred = torch.zeros_like(image)
    height, width = image.shape[2:]
    for y in range(height):
        for x in range(width):
            total = 0.0
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    weight = math.exp(-(dy * dy + dx * dx) / (2 * sigma * sigma))
                    row, column = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
                    blurred[:, :, y, x] += weight * image[:, :, row, column]
                    total += weight
            blurred[:, :, y, x] /= total
    return blurred


def naive_blend(levels: Tensor, mask: Tensor) -> Tensor:
    count, areas, height, width = mask.shape
    steps = levels.shape[1] - 1
    result = torch.zeros(count, areas, levels.shape[2], height, width, dtype=levels.dtype)
    for n in range(count):
        for a in range(areas):
            for y in range(height):
                for x in range(width):
                    place = float(mask[n, a, y, x]) * steps
                    below = min(math.floor(place), steps - 1)
                    share = place - below
                    low, high = levels[n, below, :, y, x], levels[n, below + 1, :, y, x]
                    result[n, a, :, y, x] = (1 - share) * low + share * high
    return result


def test_blurred_levels_equal_the_naive_blur() -> None:
    image = pictures(2, 2, 6, 5)
    levels = perturbation_levels(image, "blur", 4, 1.5)
    assert levels.shape == (2, 4, 2, 6, 5)
    for level, sigma in enumerate((1.5, 1.0, 0.5)):
        torch.testing.assert_close(levels[:, level], naive_blur(image, sigma, 3.0))
    assert torch.equal(levels[:, 3], image)


def test_faded_levels_are_shares_of_the_image() -> None:
    image = pictures(1, 3, 4, 5)
    levels = perturbation_levels(image, "fade", 5)
    for level in range(5):
        torch.testing.assert_close(levels[:, level], image * level / 4)


@pytest.mark.parametrize("kind", ["blur", "fade"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtype_of_levels(kind: PerturbationKind, dtype: torch.dtype) -> None:
    image = pictures(1, 1, 8, 6, dtype=dtype)
    levels = perturbation_levels(image, kind, 3, 2.0)
    assert levels.dtype == dtype
    assert blend(levels, torch.rand(1, 2, 8, 6)).dtype == dtype


@pytest.mark.parametrize("num_levels", [2, 8])
def test_blend_equals_the_naive_loop(num_levels: int) -> None:
    levels = pictures(2, num_levels, 3, 4, 5)
    mask = pictures(2, 3, 4, 5).sigmoid()
    mask[0, 0, 0] = 1
    mask[0, 1, 0] = 0
    torch.testing.assert_close(blend(levels, mask), naive_blend(levels, mask))


def test_blend_of_ones_is_the_image_and_of_zeros_the_first_level() -> None:
    levels = pictures(2, 8, 3, 4, 5, dtype=torch.float32)
    ones = torch.ones(2, 1, 4, 5)
    assert torch.equal(blend(levels, ones)[:, 0], levels[:, -1])
    assert torch.equal(blend(levels, 0 * ones)[:, 0], levels[:, 0])


def test_slope_is_that_of_finite_differences() -> None:
    levels = pictures(2, 8, 3, 4, 5)
    mask = pictures(2, 2, 4, 5).sigmoid().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: blend(levels, m), mask)


@pytest.mark.parametrize("slope_at_one", [True, False])
def test_slope_at_the_ends(slope_at_one: bool) -> None:
    levels = pictures(1, 4, 2, 1, 2)
    mask = torch.tensor([[[[0.0, 1.0]]]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(blend(levels, mask, slope_at_one=slope_at_one).sum(), mask)
    at_zero = 3 * (levels[0, 1] - levels[0, 0]).sum(0)[0, 0]
    at_one = 3 * (levels[0, 3] - levels[0, 2]).sum(0)[0, 1]
    torch.testing.assert_close(slope[0, 0, 0], torch.stack([at_zero, slope_at_one * at_one]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "noise"}, "'blur' or 'fade', got 'noise'"),
        ({"num_levels": 1}, "at least 2 levels"),
        ({"max_blur": -1.0}, "sigma >= 0"),
    ],
)
def test_bad_settings(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        perturbation_levels(pictures(1, 1, 4, 4), **settings)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (1, 1, 4, 5), (4, 4)])
def test_masks_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"levels \(N, L, C, H, W\) and masks \(N, A, H, W\)"):
        blend(pictures(1, 3, 2, 4, 4), torch.ones(shape))
