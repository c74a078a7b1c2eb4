"""How far colors stand out from the gray image, measured as an eye measures it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from color_differences import color_difference, lab
from torch import Tensor

from lightning_saliency.rendering import ColorScale, heatmap, overlay


def picture(count: int = 8, side: int = 96) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 16, 16, generator=generator)
    return F.interpolate(coarse, size=(side, side), mode="bilinear")


def coarse(cells: int, power: float) -> Tensor:
    """Maps as those of a network's last layer: few cells, enlarged."""
    generator = torch.Generator().manual_seed(1)
    small = torch.randn(8, 1, cells, cells, generator=generator).clamp(min=0) ** power
    return F.interpolate(small, size=(96, 96), mode="bilinear", align_corners=False)


def noise() -> Tensor:
    return torch.randn(8, 1, 224, 224, generator=torch.Generator().manual_seed(2)).abs()


@pytest.mark.parametrize(
    ("maps", "least"),
    [(coarse(3, 1.0), 40), (coarse(7, 1.0), 40), (coarse(7, 3.0), 60)],
    ids=["3 x 3 cells", "7 x 7 cells", "few of 7 x 7 cells"],
)
def test_the_brightest_tenth_stands_out_and_the_rest_is_the_gray_image(
    maps: Tensor, least: float
) -> None:
    tenth, half, *_ = color_difference(picture(), maps)
    assert tenth >= least
    assert half == 0


def test_noise_is_not_stretched() -> None:
    tenth, half, *_ = color_difference(picture(side=224), noise())
    assert tenth <= 35
    assert half == 0
    almost_constant = 1 + 1e-3 * torch.rand(
        8, 1, 224, 224, generator=torch.Generator().manual_seed(3)
    )
    tenth, half, *_ = color_difference(picture(side=224), almost_constant)
    assert tenth < 1
    assert half < 0.1


def test_full_color_is_rare() -> None:
    for maps in (coarse(3, 1.0), coarse(7, 1.0), noise()):
        heat = heatmap(maps, ColorScale())
        assert max(heat.clipped) <= 0.017


@pytest.mark.parametrize("share", [2.0, 4.0, 8.0, 16.0])
def test_both_signs_and_the_image_are_told_apart(share: float) -> None:
    def seen(value: float) -> Any:
        maps = torch.zeros(1, 1, 10, 10)
        maps[0, 0, 0, 0] = value
        # The mean of the map is 1: another pixel takes what is left.
        maps[0, 0, 9, 9] = 100 - abs(value)
        laid = overlay(torch.full((1, 3, 10, 10), 0.5), heatmap(maps, ColorScale(), signed=True))
        return lab(laid[0, :, 0, 0]), lab(torch.full((3,), 0.5))

    (warm, gray), (cold, _) = seen(share), seen(-share)
    assert float((warm - gray).norm()) > 20
    assert float((cold - gray).norm()) > 20
    assert float((warm - cold).norm()) > 30
