"""How far colors stand out from the gray image, measured as an eye measures it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.rendering import ColorScale, heatmap, overlay


def lab(colors: Tensor) -> Tensor:
    """CIELAB (..., 3) of sRGB colors (..., 3) in [0, 1], for the white of daylight."""
    linear = torch.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    to_xyz = torch.tensor(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ to_xyz.T / torch.tensor([0.95047, 1.0, 1.08883])
    root = torch.where(
        xyz > (6 / 29) ** 3, xyz.clamp(min=1e-9) ** (1 / 3), xyz * 841 / 108 + 4 / 29
    )
    x, y, z = root.unbind(-1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -1)


def differences(images: Tensor, maps: Tensor) -> tuple[float, float]:
    """Medians of the map's brightest tenth and of its lower half, from the gray beneath."""
    laid = overlay(images, heatmap(maps, ColorScale(), signed=bool((maps < 0).any())))
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    bare = (0.2 + 0.6 * luma).expand(-1, 3, -1, -1)
    apart = (lab(laid.movedim(1, -1)) - lab(bare.movedim(1, -1))).norm(dim=-1).flatten(1)
    tenths, halves = [], []
    for one, values in zip(apart, maps.flatten(1), strict=True):
        order = values.abs().argsort(descending=True)
        tenths.append(float(one[order[: len(order) // 10]].median()))
        halves.append(float(one[order[len(order) // 2 :]].median()))
    return sorted(tenths)[len(tenths) // 2], sorted(halves)[len(halves) // 2]


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
    return torch.randn(8, 1, 96, 96, generator=torch.Generator().manual_seed(2)).abs()


@pytest.mark.parametrize(
    ("maps", "least"),
    [(coarse(3, 1.0), 40), (coarse(7, 1.0), 40), (coarse(7, 3.0), 60)],
    ids=["3 x 3 cells", "7 x 7 cells", "few of 7 x 7 cells"],
)
def test_the_brightest_tenth_stands_out_and_the_rest_is_the_gray_image(
    maps: Tensor, least: float
) -> None:
    tenth, half = differences(picture(), maps)
    assert tenth >= least
    assert half == 0


def test_noise_is_not_stretched() -> None:
    tenth, half = differences(picture(), noise())
    assert tenth <= 35
    # Colors are those of areas of a few pixels, some of which are in the lower half by themselves.
    assert half < 5
    almost_constant = 1 + 1e-3 * torch.rand(
        8, 1, 96, 96, generator=torch.Generator().manual_seed(3)
    )
    tenth, half = differences(picture(), almost_constant)
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
