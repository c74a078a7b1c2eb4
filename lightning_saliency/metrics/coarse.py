"""How alike two saliency maps are in the large, comparable between maps of any size.

The other measures compare pixels, so a map of many pixels that are mostly noise scores lower (or,
of the largest tenth, higher) than the same evidence seen in few. Here the maps are reduced to a
few cells first, and what noise is left in the cells is measured from the map itself and divided
out.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_saliency.image.saliency_map import correlation_of_ranks, mean_ranks
from lightning_saliency.metrics.map_similarity import MEASURES, MapMeasure
from lightning_saliency.metrics.map_statistics import MapStatistics

CELLS = 7
"""Cells along each side of the map."""

LEAST_RELIABILITY = 0.2
"""Below this the cells are mostly noise, and nothing is said."""

# Of the map's largest magnitude: cells that differ by less are equal, however they were summed.
_ROUNDING = 1e12


class CoarseSpearman(MapMeasure):
    """The rank correlation of 7 x 7 cells, corrected for noise in the pixels, in [-1, 1].

    Each map gives two small maps, the means over each cell's black and over its white pixels of a
    checkerboard, which have the evidence in common and the noise not. The correlation of the black
    one of one map with the white one of the other, and the other way round, averaged, is divided by
    the root of the product of both maps' reliabilities, which are the correlations of their own two
    (the correction for attenuation; Spearman, The proof and measurement of association between two
    things, 1904). NaN where that root is below :data:`LEAST_RELIABILITY`.

    Maps of fewer than two pixels a cell on one side are compared pixel by pixel, as by
    :class:`~lightning_saliency.metrics.map_similarity.Spearman`. Detail below a seventh of the side
    is not seen: it is no replacement for the other measures.
    """

    name: ClassVar[str] = "coarse"
    best: ClassVar[float] = 1.0
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    unrelated: ClassVar[float | None] = 0.0
    is_similarity: ClassVar[bool] = False
    is_calibrated: ClassVar[bool] = False
    meaning: ClassVar[str] = "whether sevenths of the picture have the same order, without noise"

    @override
    def compute(self, current: MapStatistics, reference: MapStatistics) -> Tensor:
        if min(current.maps.shape[2:]) < 2 * CELLS:
            return correlation_of_ranks(current.ranks, reference.ranks)
        black, white = _halves(current.wide)
        other_black, other_white = _halves(reference.wide)
        across = correlation_of_ranks(black, other_white) + correlation_of_ranks(white, other_black)
        reliable = _reliability(black, white) * _reliability(other_black, other_white)
        root = reliable.sqrt()
        return (across / 2 / root).clamp(-1, 1).where(root >= LEAST_RELIABILITY, torch.nan)


def _reliability(black: Tensor, white: Tensor) -> Tensor:
    return correlation_of_ranks(black, white).clamp_min(0)


def _halves(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ranks of the cells by the pixels of either color, each (N, cells)."""
    height, width = maps.shape[2:]
    color = (torch.arange(height)[:, None] + torch.arange(width)) % 2
    scale = maps.flatten(1).abs().amax(1, keepdim=True) / _ROUNDING
    ranks = []
    for parity in (0, 1):
        chosen = (color == parity).to(maps)[None, None]
        # Cells of sides that are no multiple of 7 share a row or a column of pixels.
        means = F.adaptive_avg_pool2d(maps * chosen, CELLS) / F.adaptive_avg_pool2d(chosen, CELLS)
        ranks.append(mean_ranks((means.flatten(1) / scale).round()))
    return ranks[0], ranks[1]


coarse = CoarseSpearman()

COMPARED: Mapping[str, MapMeasure] = MappingProxyType({**MEASURES, coarse.name: coarse})
"""All by which the maps of two times are compared, by name."""
