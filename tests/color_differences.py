"""How far the colors of a map are from the gray image beneath, measured as an eye measures it."""

from __future__ import annotations

import statistics
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.metrics import canonical
from lightning_saliency.rendering import ColorScale, heatmap, overlay


class Difference(NamedTuple):
    """CIELAB differences from the gray image beneath.

    Attributes:
        tenth: median of the map's brightest tenth, median over the maps.
        haze: the same of the map's lower half, where nothing should be seen.
        full: share of the pixels of all maps that are shown at full color.
        fullest: the largest share in one map.
        empty: share of the maps that are hatched, of which nothing was measured.
    """

    tenth: float
    haze: float
    full: float
    fullest: float
    empty: float


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


def color_difference(images: Tensor, maps: Tensor) -> Difference:
    """Measure maps as the filmstrip lays them over their images: at 64 pixels, if they are larger.

    Args:
        images: (N, 3, H, W), in [0, 1].
        maps: (N, 1, H, W); at least one shows something.
    """
    maps = canonical(maps)
    images = F.interpolate(images, size=maps.shape[2:], mode="area")
    heat = heatmap(maps, ColorScale(), signed=bool((maps < 0).any()))
    laid = overlay(images, heat)
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    bare = (0.2 + 0.6 * luma).expand(-1, 3, -1, -1)
    apart = (lab(laid.movedim(1, -1)) - lab(bare.movedim(1, -1))).norm(dim=-1).flatten(1)
    shown = [i for i, fault in enumerate(heat.fault) if not fault]
    tenths, halves = [], []
    for i in shown:
        order = maps[i].flatten().abs().argsort(descending=True)
        tenths.append(float(apart[i, order[: len(order) // 10]].median()))
        halves.append(float(apart[i, order[len(order) // 2 :]].median()))
    return Difference(
        statistics.median(tenths),
        statistics.median(halves),
        statistics.fmean(heat.clipped[i] for i in shown),
        max(heat.clipped[i] for i in shown),
        1 - len(shown) / len(maps),
    )
