"""Statistics of saliency maps that the measures need, computed once.

A map is compared several times: with the previous map of its image, with the pinned one, with that
of another image, and later with the next one. Most of the work, such as ranking its pixels, depends
on one map only.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from lightning_saliency.image.ranks import mean_ranks
from lightning_saliency.image.saliency_map import check_maps, degenerate, to_float64
from lightning_saliency.metrics.structural_similarity import LocalStatistics, local_statistics

__all__ = ["MapStatistics", "top_tenth"]


class MapStatistics:
    """A batch of maps with statistics of each, computed on first use.

    All is in float64, on the device on which the measures compute (see
    :func:`~lightning_saliency.image.saliency_map.to_float64`), and takes eight times the memory of
    float32 maps once computed. For a degenerate map the statistics are undefined.

    Args:
        maps: (N, 1, H, W), floating point. They are not copied and must not be changed.

    Attributes:
        maps: as given, detached.

    Raises:
        InputError: ``maps`` are no maps.
    """

    def __init__(self, maps: Tensor) -> None:
        check_maps(maps)
        self.maps = maps.detach()

    def __len__(self) -> int:
        return len(self.maps)

    def of(self, index: Tensor) -> MapStatistics:
        """Return some of the maps with their statistics; nothing is recomputed.

        Args:
            index: which, int64, (M,).
        """
        chosen = MapStatistics(self.maps[index.to(self.maps.device)])
        index = index.to(self.is_degenerate.device)
        for name, kind in vars(MapStatistics).items():
            if isinstance(kind, cached_property):
                value = getattr(self, name)
                rows = value.of(index) if isinstance(value, LocalStatistics) else value[index]
                setattr(chosen, name, rows)
        return chosen

    @property
    def wide(self) -> Tensor:
        """The maps in float64."""
        return to_float64(self.maps)

    @cached_property
    def is_degenerate(self) -> Tensor:
        """Which maps show nothing, bool (N,)."""
        return degenerate(self.wide)

    @cached_property
    def largest_tenth(self) -> Tensor:
        """Which pixels have the largest values, bool (N, H * W); see :func:`top_tenth`."""
        return top_tenth(self.wide).flatten(1)

    @cached_property
    def ranks(self) -> Tensor:
        """The ranks of the pixels (N, H * W), less their mean; equal values get their mean rank."""
        return mean_ranks(self.wide.flatten(1))

    @cached_property
    def local(self) -> LocalStatistics:
        """Means and variances around each pixel, of the maps scaled to [0, 1] by their ranges."""
        return local_statistics(_unit_range(self.wide))

    @cached_property
    def center(self) -> Tensor:
        """The center of mass (N, 2) in pixels, (row, column), after subtracting the minimum."""
        mass = self.local.maps[:, 0]
        rows = torch.arange(mass.shape[1], device=mass.device, dtype=mass.dtype)
        columns = torch.arange(mass.shape[2], device=mass.device, dtype=mass.dtype)
        # No matrix product: its last digits depend on how many maps there are.
        center = torch.stack(((mass.sum(2) * rows).sum(1), (mass.sum(1) * columns).sum(1)), dim=1)
        return center / mass.sum((1, 2))[:, None]

    @cached_property
    def log2_norm(self) -> Tensor:
        """The logarithm of the sum of the magnitudes, (N,)."""
        return self.wide.flatten(1).abs().sum(1).log2()


def top_tenth(maps: Tensor) -> Tensor:
    """Mark the tenth of the pixels with the largest values, also in degenerate maps.

    See :func:`~lightning_saliency.metrics.map_similarity.top10`.

    Args:
        maps: (N, 1, H, W).

    Returns:
        (N, 1, H, W), bool.
    """
    flat = maps.flatten(1)
    count = max(1, round(0.1 * flat.shape[1]))
    # A map of one pixel has no second value; it is degenerate, and its result is not used.
    largest = flat.topk(min(count + 1, flat.shape[1]), dim=1).values
    marked = flat > largest[:, -1:]
    saturated = largest[:, :1] == largest[:, -1:]
    return torch.where(saturated, flat == largest[:, :1], marked).view_as(maps)


def _unit_range(maps: Tensor) -> Tensor:
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low)
