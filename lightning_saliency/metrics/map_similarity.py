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
- A pair with a :func:`~lightning_saliency.metrics.comparable.degenerate` map (constant, all zero,
  not finite) has no similarity: NaN.
- They take maps of any size; :func:`~lightning_saliency.metrics.comparable.comparable` brings maps
  to the size at which they are meant to be compared.
- They compute in float64 on the maps' device, or on the CPU where the device has no float64 (MPS),
  so that no precision setting for float32 convolutions and products (TF32) reaches them; no
  gradient is recorded.

Rank correlation, SSIM and the overlap of the largest pixels are what explanations are usually
compared by: Adebayo et al. Sanity checks for saliency maps. NeurIPS 2018, arXiv:1810.03292;
Ghorbani, Abid, Zou. Interpretation of neural networks is fragile. AAAI 2019, arXiv:1710.10547,
which also has the shift of the centre.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics.functional.regression import pearson_corrcoef

from lightning_saliency.errors import InputError
from lightning_saliency.metrics.comparable import check_maps, degenerate, widen
from lightning_saliency.metrics.structural_similarity import structural_similarity

__all__ = ["center_shift", "log2_norm_ratio", "spearman", "ssim", "top10", "top10_iou"]


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
    return _top10(widen(maps)).to(maps.device) & shown[:, None, None, None]


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
    return _of_pairs(_top10_iou, current, reference, equal=1.0)


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
    return _of_pairs(_spearman, current, reference, equal=1.0)


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
    return _of_pairs(_ssim, current, reference, equal=1.0)


def center_shift(current: Tensor, reference: Tensor) -> Tensor:
    """Return how far the centre of mass moved, as a fraction of the map's diagonal.

    A map's minimum is subtracted first: what all pixels have in common has its centre in the
    middle of the picture and would hold the centre there.

    Args:
        current: (N, 1, H, W), floating point.
        reference: maps of the same images, of the same shape.

    Returns:
        (N,), in [0, 1), 0 for equal maps; NaN where a map is degenerate.

    Raises:
        InputError: these are no maps, or they differ in shape or device.
    """
    return _of_pairs(_center_shift, current, reference, equal=0.0)


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
    return _of_pairs(_log2_norm_ratio, current, reference, equal=0.0)


def _of_pairs(
    formula: Callable[[Tensor, Tensor], Tensor],
    current: Tensor,
    reference: Tensor,
    equal: float,
) -> Tensor:
    """Apply ``formula`` to the pairs that are neither equal nor degenerate."""
    check_maps(current)
    check_maps(reference)
    if current.shape != reference.shape or current.device != reference.device:
        raise InputError(
            "Expected both maps of a pair in one shape and on one device, got "
            f"{tuple(current.shape)} on {current.device} and {tuple(reference.shape)} on "
            f"{reference.device}."
        )
    first, second = widen(current), widen(reference)
    same = (first == second).flatten(1).all(1)
    missing = degenerate(first) | degenerate(second)
    values = torch.full(same.shape, torch.nan, dtype=torch.float64, device=first.device)
    values[same & ~missing] = equal
    rest = ~(same | missing)
    if bool(rest.any()):
        values[rest] = formula(first[rest], second[rest])
    dtype = torch.promote_types(current.dtype, reference.dtype)
    return values.to(torch.promote_types(dtype, torch.float32)).to(current.device)


def _top10(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    count = max(1, round(0.1 * flat.shape[1]))
    # A map of one pixel has no second value; it is degenerate, and what it gives is not used.
    largest = flat.topk(min(count + 1, flat.shape[1]), dim=1).values
    marked = flat > largest[:, -1:]
    saturated = largest[:, :1] == largest[:, -1:]
    return torch.where(saturated, flat == largest[:, :1], marked).view_as(maps)


def _top10_iou(first: Tensor, second: Tensor) -> Tensor:
    a, b = _top10(first).flatten(1), _top10(second).flatten(1)
    return (a & b).sum(1).double() / (a | b).sum(1)


def _spearman(first: Tensor, second: Tensor) -> Tensor:
    # torchmetrics' spearman_corrcoef is not used: it adds up the ranks of ties in int32, which
    # overflows from 65,536 pixels on, correlates in float32, and ranks map by map.
    correlation = pearson_corrcoef(_ranks(first).T, _ranks(second).T)
    # One pair comes back without a dimension.
    return correlation.reshape(-1)


def _ranks(maps: Tensor) -> Tensor:
    """Return the ranks of the pixels (N, H * W), from 0; equal values get their mean rank."""
    ordered, place = maps.flatten(1).sort(1)
    index = torch.arange(ordered.shape[1], device=maps.device)
    rises = ordered[:, 1:] > ordered[:, :-1]
    edge = torch.ones_like(rises[:, :1])
    # Of each run of equal values the first and the last place.
    first = torch.where(torch.cat([edge, rises], 1), index, 0).cummax(1).values
    last = torch.where(torch.cat([rises, edge], 1), index, len(index)).flip(1).cummin(1).values
    mean = (first + last.flip(1)).double() / 2
    return torch.zeros_like(ordered).scatter_(1, place, mean)


def _ssim(first: Tensor, second: Tensor) -> Tensor:
    return structural_similarity(_unit_range(first), _unit_range(second))


def _unit_range(maps: Tensor) -> Tensor:
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low)


def _center_shift(first: Tensor, second: Tensor) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm(_center(first) - _center(second), dim=1)
    return distance / math.hypot(*first.shape[2:])


def _center(maps: Tensor) -> Tensor:
    """Return the centre of mass (N, 2) in pixels, (row, column)."""
    mass = _unit_range(maps)[:, 0]
    rows = torch.arange(mass.shape[1], device=mass.device, dtype=mass.dtype)
    columns = torch.arange(mass.shape[2], device=mass.device, dtype=mass.dtype)
    center = torch.stack((mass.sum(2) @ rows, mass.sum(1) @ columns), dim=1)
    return center / mass.sum((1, 2))[:, None]


def _log2_norm_ratio(first: Tensor, second: Tensor) -> Tensor:
    return _log2_norm(first) - _log2_norm(second)


def _log2_norm(maps: Tensor) -> Tensor:
    return maps.flatten(1).abs().sum(1).log2()
