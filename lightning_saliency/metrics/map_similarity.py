"""How alike two saliency maps of one image are.

Five measures, each a function of two batches of maps that gives one number for each pair. Three
are similarities (1 for equal maps, near 0 by chance), one is a distance, one a ratio:

=================== ========== ============ ====================================================
measure             equal maps range        unchanged by (of either map)
=================== ========== ============ ====================================================
``top10_iou``       1          [0, 1]       any increasing function of the values
``spearman``        1          [-1, 1]      any increasing function of the values
``ssim``            1          [-1, 1]      scaling by a positive factor, adding a constant
``center_shift``    0          [0, 1)       scaling by a positive factor, adding a constant
``log2_norm_ratio`` 0          real         nothing: it is the measure that sees the size
=================== ========== ============ ====================================================

They have in common:

- Pairs that are equal pixel by pixel give exactly the value for equal maps.
- A pair with a :func:`~lightning_saliency.metrics.canonical.degenerate` map (constant, all zero,
  not finite) has no similarity: NaN.
- They take maps of any size; :func:`~lightning_saliency.metrics.canonical.canonical` brings maps
  to the size at which they are meant to be compared.
- They compute in float64 on the maps' device, or on the CPU where the device has no float64 (MPS),
  so that no precision setting for float32 convolutions and products (TF32) reaches them; no
  gradient is recorded.

Rank correlation, SSIM and the overlap of the largest pixels are what explanations are usually
compared by: Adebayo et al. Sanity checks for saliency maps. NeurIPS 2018, arXiv:1810.03292;
Ghorbani, Abid, Zou. Interpretation of neural networks is fragile. AAAI 2019, arXiv:1710.10547,
which also has the shift of the center.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.metrics.canonical import degenerate, to_float64
from lightning_saliency.metrics.map_statistics import MapStatistics, top_tenth
from lightning_saliency.metrics.structural_similarity import structural_similarity

__all__ = [
    "NO_DRIFT",
    "center_shift",
    "log2_norm_ratio",
    "similarity",
    "spearman",
    "ssim",
    "top10",
    "top10_iou",
]

_Formula: TypeAlias = Callable[[MapStatistics, MapStatistics], Tensor]

NO_DRIFT: Mapping[str, float] = MappingProxyType(
    {"top10_iou": 1.0, "spearman": 1.0, "ssim": 1.0, "center_shift": 0.0, "log2_norm_ratio": 0.0}
)
"""What each measure gives for equal maps, exactly."""


def top10(maps: Tensor) -> Tensor:
    """Mark the tenth of the pixels that have the largest values.

    With k a tenth of the pixels, rounded, at least 1: the pixels that are larger than the
    (k + 1)-th largest. Without ties these are k pixels. Equal pixels are in or out together,
    whichever place they have in the map: a group that does not fit as a whole is left out, so that
    of a map which is zero almost everywhere only the other pixels are marked, and not some zeros
    that happen to come first. If the pixels equal to the maximum alone are more than k, as where a
    mask saturates, they are all marked.

    Args:
        maps: (N, 1, H, W), floating point.

    Returns:
        (N, 1, H, W), bool, on the same device; nothing is marked in a degenerate map.

    Raises:
        InputError: ``maps`` are no maps.
    """
    shown = ~degenerate(maps)
    return top_tenth(to_float64(maps)).to(maps.device) & shown[:, None, None, None]


def top10_iou(current: Tensor, reference: Tensor) -> Tensor:
    """Return the overlap (intersection over union) of the tenths with the largest values.

    0.05 is what two unrelated maps have. :func:`top10` says what happens to ties.

    Args:
        current: (N, 1, H, W), floating point.
        reference: maps of the same images, of the same shape.

    Returns:
        (N,), in [0, 1], 1 for equal maps; NaN where a map is degenerate.

    Raises:
        InputError: these are no maps, or they differ in shape or device.
    """
    return _one("top10_iou", current, reference)


def spearman(current: Tensor, reference: Tensor) -> Tensor:
    """Return the rank correlation of the pixels; equal values share their mean rank.

    The sign of the values counts. 0 is what two unrelated maps have.

    Args:
        current: (N, 1, H, W), floating point.
        reference: maps of the same images, of the same shape.

    Returns:
        (N,), in [-1, 1], 1 for equal maps; NaN where a map is degenerate.

    Raises:
        InputError: these are no maps, or they differ in shape or device.
    """
    return _one("spearman", current, reference)


def ssim(current: Tensor, reference: Tensor) -> Tensor:
    """Return the structural similarity of the maps, each scaled to [0, 1] by its own range.

    Without the scaling, SSIM of a map and its negative is nearly 1. See
    :func:`~lightning_saliency.metrics.structural_similarity.structural_similarity`.

    Args:
        current: (N, 1, H, W), floating point.
        reference: maps of the same images, of the same shape.

    Returns:
        (N,), in [-1, 1], 1 for equal maps; NaN where a map is degenerate.

    Raises:
        InputError: these are no maps, or they differ in shape or device.
    """
    return _one("ssim", current, reference)


def center_shift(current: Tensor, reference: Tensor) -> Tensor:
    """Return how far the center of mass moved, as a fraction of the map's diagonal.

    A map's minimum is subtracted first: what all pixels have in common has its center in the
    middle of the picture and would hold the center there.

    Args:
        current: (N, 1, H, W), floating point.
        reference: maps of the same images, of the same shape.

    Returns:
        (N,), in [0, 1), 0 for equal maps; NaN where a map is degenerate.

    Raises:
        InputError: these are no maps, or they differ in shape or device.
    """
    return _one("center_shift", current, reference)


def log2_norm_ratio(current: Tensor, reference: Tensor) -> Tensor:
    """Return by how many powers of two the sum of the magnitudes grew.

    1 means that the current map is twice as large as the reference, -1 half as large. The size of
    a map follows the scale of the network's scores; it grows in ordinary training.

    Args:
        current: (N, 1, H, W), floating point.
        reference: maps of the same images, of the same shape.

    Returns:
        (N,), 0 for equal maps; NaN where a map is degenerate.

    Raises:
        InputError: these are no maps, or they differ in shape or device.
    """
    return _one("log2_norm_ratio", current, reference)


def similarity(
    current: MapStatistics, reference: MapStatistics, measures: Iterable[str] = tuple(NO_DRIFT)
) -> dict[str, Tensor]:
    """Return what the measures give for each pair.

    Args:
        current: N maps.
        reference: maps of the same images, of the same shape.
        measures: names of :data:`NO_DRIFT`.

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
    for name in measures:
        equal = torch.full(same.shape, NO_DRIFT[name], dtype=torch.float64, device=same.device)
        values = equal if all_equal else equal.where(same, _FORMULAS[name](current, reference))
        found[name] = values.where(~missing, torch.nan).to(dtype).to(first.device)
    return found


def _one(name: str, current: Tensor, reference: Tensor) -> Tensor:
    return similarity(MapStatistics(current), MapStatistics(reference), [name])[name]


def _top10_iou(first: MapStatistics, second: MapStatistics) -> Tensor:
    a, b = first.largest_tenth, second.largest_tenth
    return (a & b).sum(1).double() / (a | b).sum(1)


def _spearman(first: MapStatistics, second: MapStatistics) -> Tensor:
    # torchmetrics' spearman_corrcoef is not used: it adds up the ranks of ties in int32, which
    # overflows from 65,536 pixels on, correlates in float32, and ranks map by map and pair by pair.
    a, b = first.ranks, second.ranks
    size = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return ((a * b).sum(1) / size).clamp(-1, 1)


def _ssim(first: MapStatistics, second: MapStatistics) -> Tensor:
    return structural_similarity(first.local, second.local)


def _center_shift(first: MapStatistics, second: MapStatistics) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm(first.center - second.center, dim=1)
    return distance / math.hypot(*first.maps.shape[2:])


def _log2_norm_ratio(first: MapStatistics, second: MapStatistics) -> Tensor:
    return first.log2_norm - second.log2_norm


_FORMULAS: Mapping[str, _Formula] = MappingProxyType(
    {
        "top10_iou": _top10_iou,
        "spearman": _spearman,
        "ssim": _ssim,
        "center_shift": _center_shift,
        "log2_norm_ratio": _log2_norm_ratio,
    }
)
