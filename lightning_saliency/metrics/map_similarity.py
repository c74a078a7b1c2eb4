"""How alike two saliency maps of one image are.

Five measures, each an object that is called like a function of two batches of maps and gives one
number for each pair. Three are similarities (1 for equal maps, near 0 by chance), one is a
distance, one a ratio:

=================== ========== ============ ====================================================
measure             equal maps range        unchanged by (of either map)
=================== ========== ============ ====================================================
``top10_iou``       1          [0, 1]       any increasing function of the values
``spearman``        1          [-1, 1]      any increasing function of the values
``ssim``            1          [-1, 1]      scaling by a positive factor, adding a constant
``center_shift``    0          [0, 1)       scaling by a positive factor, adding a constant
``log2_norm_ratio`` 0          real         nothing: it measures the magnitude
=================== ========== ============ ====================================================

They have in common:

- Pairs that are equal pixel by pixel give exactly the value for equal maps.
- A pair with a :func:`~lightning_saliency.image.saliency_map.degenerate` map (constant, all zero,
  not finite) has no similarity: NaN.
- They take maps of any size; :func:`~lightning_saliency.metrics.map_statistics.canonical` resizes
  maps to the size at which they are meant to be compared.
- They compute in float64 on the maps' device, or on the CPU if the device has no float64 (MPS), so
  precision settings of float32 convolutions and products (TF32) do not affect them; no gradient is
  recorded.

Rank correlation, SSIM and the overlap of the largest pixels are the usual measures for comparing
explanations: Adebayo et al. Sanity checks for saliency maps. NeurIPS 2018, arXiv:1810.03292;
Ghorbani, Abid, Zou. Interpretation of neural networks is fragile. AAAI 2019, arXiv:1710.10547,
which also uses the shift of the center.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import ClassVar, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_saliency.errors import InputError
from lightning_saliency.image.saliency_map import correlation_of_ranks, degenerate, to_float64
from lightning_saliency.metrics.map_statistics import (
    MapStatistics,
    structural_similarity,
    top_tenth,
)

Number = TypeVar("Number", float, Tensor)
"""A value of a measure, or many in a tensor."""


class Measure:
    """One number about a map; each measure is a subclass.

    Attributes:
        name: under which it is logged.
        best: its value in the ideal case: for equal maps, or for a map that lies entirely on the
            object.
    """

    name: ClassVar[str]
    best: ClassVar[float]

    def amount(self, value: Number) -> Number:
        """Return how far a value is from the best one; larger is worse. Alarms watch this.

        Args:
            value: what the measure gave; a number, or a tensor of any shape.
        """
        return abs(self.best - value)


class MapMeasure(Measure, ABC):
    """How alike two maps of one image are, or how far they are apart.

    Called with two batches of maps (N, 1, H, W), floating point, of one shape and device, it
    returns one number for each pair, (N,); NaN where a map is degenerate.

    Attributes:
        bounds: the smallest and largest value.
        unrelated: the approximate value for unrelated maps; None if it depends on the maps.
        is_similarity: whether equal maps have 1 and unrelated ones about 0. Only similarities are
            also logged for subsets of the samples and relative to noise and chance, and watched by
            alarms by default.
        is_calibrated: whether its value relative to chance is meaningful.
        meaning: what it measures, in a few words.
    """

    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    unrelated: ClassVar[float | None] = None
    is_similarity: ClassVar[bool] = False
    is_calibrated: ClassVar[bool] = True
    meaning: ClassVar[str]

    @abstractmethod
    def compute(self, current: MapStatistics, reference: MapStatistics) -> Tensor:
        """Return the number of each pair; undefined for degenerate maps.

        Args:
            current: N maps that are not all equal to the references.
            reference: maps of the same images, of the same shape.

        Returns:
            (N,), float64, on the device of the statistics.
        """

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """Return the number of each pair, (N,).

        Args:
            current: (N, 1, H, W), floating point.
            reference: maps of the same images, of the same shape.

        Raises:
            InputError: these are no maps, or they differ in shape or device.
        """
        pair = MapStatistics(current), MapStatistics(reference)
        return similarity(*pair, [self])[self.name]

    def column(self, reference: str) -> str:
        """Return the heading of the measure in a table of samples.

        Args:
            reference: what the maps are compared with, such as ``"previous"``.
        """
        return f"{self.name} to {reference}"


class Top10IoU(MapMeasure):
    """The overlap (intersection over union) of the tenths with the largest values, in [0, 1].

    :func:`top10` says what happens to ties.
    """

    name = "top10_iou"
    best = 1.0
    bounds = (0.0, 1.0)
    unrelated = 0.05
    is_similarity = True
    meaning = "whether the strongest tenth of the pixels is the same"

    @override
    def compute(self, current: MapStatistics, reference: MapStatistics) -> Tensor:
        a, b = current.largest_tenth, reference.largest_tenth
        return (a & b).sum(1).double() / (a | b).sum(1)


class Spearman(MapMeasure):
    """The rank correlation of the pixels, in [-1, 1]; equal values share their mean rank.

    The sign of the values counts.
    """

    name = "spearman"
    best = 1.0
    bounds = (-1.0, 1.0)
    unrelated = 0.0
    is_similarity = True
    meaning = "whether the pixels have the same order"

    @override
    def compute(self, current: MapStatistics, reference: MapStatistics) -> Tensor:
        return correlation_of_ranks(current.ranks, reference.ranks)


class SSIM(MapMeasure):
    """The structural similarity of the maps, each scaled to [0, 1] by its own range, in [-1, 1].

    Without the scaling, SSIM of a map and its negative is nearly 1. See
    :func:`~lightning_saliency.metrics.map_statistics.structural_similarity`.
    """

    name = "ssim"
    best = 1.0
    bounds = (-1.0, 1.0)
    unrelated = 0.0
    is_similarity = True
    meaning = "whether the map, scaled to [0, 1], has the same structure"

    @override
    def compute(self, current: MapStatistics, reference: MapStatistics) -> Tensor:
        return structural_similarity(current.local, reference.local)


class CenterShift(MapMeasure):
    """How far the center of mass moved, as a fraction of the map's diagonal, in [0, 1).

    A map's minimum is subtracted first: what all pixels have in common has its center in the
    middle of the picture and would hold the center there.
    """

    name = "center_shift"
    best = 0.0
    bounds = (0.0, 1.0)
    meaning = "how far the center of mass moved, in image diagonals"

    @override
    def compute(self, current: MapStatistics, reference: MapStatistics) -> Tensor:
        distance: Tensor = torch.linalg.vector_norm(current.center - reference.center, dim=1)
        return distance / math.hypot(*current.maps.shape[2:])


class Log2NormRatio(MapMeasure):
    """By how many powers of two the sum of the magnitudes grew.

    1 means that the current map is twice as large as the reference, -1 half as large. The size of
    a map follows the scale of the network's scores; it grows in ordinary training.
    """

    name = "log2_norm_ratio"
    best = 0.0
    is_calibrated = False
    meaning = "how many times stronger the map became, in powers of 2"

    @override
    def compute(self, current: MapStatistics, reference: MapStatistics) -> Tensor:
        return current.log2_norm - reference.log2_norm


top10_iou = Top10IoU()
spearman = Spearman()
ssim = SSIM()
center_shift = CenterShift()
log2_norm_ratio = Log2NormRatio()

MEASURES: Mapping[str, MapMeasure] = MappingProxyType(
    {each.name: each for each in (top10_iou, spearman, ssim, center_shift, log2_norm_ratio)}
)
"""The measures of drift, by name."""

SIMILARITIES: tuple[str, ...] = tuple(name for name, each in MEASURES.items() if each.is_similarity)
"""The names of those that are similarities."""

RANKING: MapMeasure = top10_iou
"""The measure that says which samples moved most."""

NO_DRIFT: Mapping[str, float] = MappingProxyType(
    {name: each.best for name, each in MEASURES.items()}
)
"""What each measure gives for equal maps, exactly."""


def top10(maps: Tensor) -> Tensor:
    """Mark the tenth of the pixels that have the largest values.

    With k a tenth of the pixels, rounded, at least 1: the pixels larger than the (k + 1)-th
    largest. Without ties these are k pixels. Equal pixels are marked together or not at all.
    A group that does not fit as a whole is left out, so in a map that is zero almost everywhere
    only the other pixels are marked, and not the zeros that happen to come first. If more than k
    pixels are equal to the maximum, as where a mask saturates, all of them are marked.

    Args:
        maps: (N, 1, H, W), floating point.

    Returns:
        (N, 1, H, W), bool, on the same device; nothing is marked in a degenerate map.

    Raises:
        InputError: ``maps`` are no maps.
    """
    shown = ~degenerate(maps)
    return top_tenth(to_float64(maps)).to(maps.device) & shown[:, None, None, None]


def similarity(
    current: MapStatistics,
    reference: MapStatistics,
    measures: Iterable[MapMeasure] = tuple(MEASURES.values()),
) -> dict[str, Tensor]:
    """Return what the measures give for each pair.

    Args:
        current: N maps.
        reference: maps of the same images, of the same shape.
        measures: all of :data:`MEASURES`, or some.

    Returns:
        For each measure (N,), on the maps' device; NaN where a map is degenerate.

    Raises:
        InputError: the maps differ in shape or device.
    """
    first, second = current.maps, reference.maps
    if first.shape != second.shape or first.device != second.device:
        raise InputError(
            "Expected both maps of a pair in one shape and on one device, got "
            f"{tuple(first.shape)} on {first.device} and {tuple(second.shape)} on "
            f"{second.device}."
        )
    same = (current.wide == reference.wide).flatten(1).all(1)
    missing = current.is_degenerate | reference.is_degenerate
    all_equal = bool((same | missing).all())
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    found = {}
    for measure in measures:
        equal = torch.full(same.shape, measure.best, dtype=torch.float64, device=same.device)
        values = equal if all_equal else equal.where(same, measure.compute(current, reference))
        found[measure.name] = values.where(~missing, torch.nan).to(dtype).to(first.device)
    return found
