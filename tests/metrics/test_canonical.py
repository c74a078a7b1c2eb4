import math

import numpy as np
import pytest
import torch

from lightning_saliency.errors import InputError
from lightning_saliency.metrics import canonical, degenerate


def area_mean(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mean over the pixels that each new pixel touches, as in adaptive average pooling."""
    old_height, old_width = image.shape
    result = np.zeros((height, width))
    for row in range(height):
        top, bottom = row * old_height // height, -(-(row + 1) * old_height // height)
        for column in range(width):
            left, right = column * old_width // width, -(-(column + 1) * old_width // width)
            result[row, column] = image[top:bottom, left:right].mean()
    return result


@pytest.mark.parametrize("size", [(224, 224), (100, 65), (65, 3), (128, 64)])
def test_large_maps_are_shrunk_to_the_mean_of_the_area(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(0))
    small = canonical(maps)
    assert max(small.shape[2:]) == 64
    for one, expected in zip(small[:, 0].numpy(), maps[:, 0].double().numpy(), strict=True):
        np.testing.assert_allclose(one, area_mean(expected, *small.shape[2:]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((224, 224), (64, 64)),
        ((224, 112), (64, 32)),
        ((64, 64), (64, 64)),
        ((7, 7), (7, 7)),
        ((1, 1), (1, 1)),
        ((64, 3), (64, 3)),
        ((3, 1000), (1, 64)),
    ],
)
def test_the_aspect_ratio_stays_and_nothing_is_enlarged(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert canonical(torch.rand(3, 1, *size)).shape == (3, 1, *expected)


def test_the_size_can_be_chosen() -> None:
    assert canonical(torch.rand(1, 1, 40, 20), size=10).shape == (1, 1, 10, 5)


@pytest.mark.parametrize("size", [4, 96])
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_the_result_is_a_detached_copy_of_at_least_single_precision(
    dtype: torch.dtype, expected: torch.dtype, size: int
) -> None:
    maps = torch.rand(2, 1, size, size).to(dtype).requires_grad_()
    small = canonical(maps)
    assert small.dtype == expected
    assert not small.requires_grad
    small.zero_()
    assert float(maps.detach().abs().sum()) > 0


def test_shrinking_twice_is_shrinking_once() -> None:
    small = canonical(torch.rand(2, 1, 150, 100))
    assert torch.equal(canonical(small), small)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7e-30, 1e38, -1e38])
def test_a_constant_map_stays_constant(value: float) -> None:
    small = canonical(torch.full((1, 1, 1000, 700), value))
    assert bool((small == value).all())
    assert degenerate(small).tolist() == [True]


def test_the_sum_of_huge_values_does_not_overflow() -> None:
    maps = torch.full((1, 1, 500, 500), 3e38)
    maps[..., 0] = 0
    assert bool(canonical(maps).isfinite().all())
    assert degenerate(canonical(maps)).tolist() == [False]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_single_bad_pixel_survives_shrinking(bad: float) -> None:
    maps = torch.rand(2, 1, 224, 224)
    maps[1, 0, 100, 17] = bad
    assert degenerate(canonical(maps)).tolist() == [False, True]


def test_infinities_of_both_signs_are_degenerate() -> None:
    maps = torch.rand(1, 1, 224, 224)
    maps[0, 0, 0, 0], maps[0, 0, 0, 1] = torch.inf, -torch.inf
    assert degenerate(maps).tolist() == degenerate(canonical(maps)).tolist() == [True]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("offset", [0.0, 1.0, -5.0])
def test_degenerate_is_a_matter_of_relative_spread(scale: float, offset: float) -> None:
    noise = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    rounded = (offset + 1e-7 * noise) * scale if offset else torch.zeros_like(noise)
    shown = (offset + 1e-4 * noise) * scale
    assert degenerate(rounded).tolist() == [True]
    assert degenerate(shown).tolist() == [False]


def test_a_constant_that_was_interpolated_in_single_precision_is_degenerate() -> None:
    maps = torch.nn.functional.interpolate(
        torch.full((1, 1, 7, 7), 0.3), size=(224, 224), mode="bicubic", align_corners=False
    )
    assert degenerate(maps).tolist() == [True]


def test_one_pixel_that_differs_is_not_degenerate() -> None:
    maps = torch.zeros(2, 1, 64, 64)
    maps[0, 0, 3, 3] = 1e-40  # subnormal
    maps[1, 0, 3, 3] = -1.0
    assert degenerate(maps).tolist() == [False, False]


def test_a_map_of_one_pixel_is_degenerate() -> None:
    assert degenerate(torch.rand(3, 1, 1, 1)).tolist() == [True] * 3


def test_no_maps_at_all() -> None:
    assert canonical(torch.rand(0, 1, 224, 224)).shape == (0, 1, 64, 64)
    assert degenerate(torch.rand(0, 1, 8, 8)).shape == (0,)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (torch.rand(8, 8), r"shape \(N, 1, H, W\), got shape \(8, 8\)"),
        (torch.rand(2, 3, 8, 8), r"got shape \(2, 3, 8, 8\)"),
        (torch.rand(2, 1, 0, 8), r"got shape \(2, 1, 0, 8\)"),
        (torch.ones(2, 1, 8, 8, dtype=torch.long), "floating point maps, got torch.int64"),
        ([1.0], "got list"),
    ],
)
def test_what_is_no_map_is_refused(maps: object, message: str) -> None:
    for function in (canonical, degenerate):
        with pytest.raises(InputError, match=message):
            function(maps)


def test_a_size_below_one_pixel_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1 pixel, got 0"):
        canonical(torch.rand(1, 1, 8, 8), size=0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1, 2), False),
        ((0, 1e-30), False),
        ((-3e38, 3e38), False),
        ((math.nan, 1, 2), True),
        ((1, 2, math.inf), True),
        ((0, 0), True),
        ((5, 5 * (1 + 1e-7)), True),
        ((math.nan, math.nan), True),
    ],
)
def test_which_maps_show_nothing(values: tuple[float, ...], expected: bool) -> None:
    assert degenerate(torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)).tolist() == [
        expected
    ]


def test_the_largest_doubles_of_unlike_sign_are_not_degenerate() -> None:
    maps = torch.tensor([-1.7e308, 1.7e308], dtype=torch.float64).view(1, 1, 1, 2)
    assert degenerate(maps).tolist() == [False]
