"""Saliency maps: size, checks, which of them show nothing, and Spearman's rank correlation."""

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError

ResizeMode: TypeAlias = Literal["bilinear", "bicubic", "nearest", "area"]
"""How values between the pixels are found: the modes of ``torch.nn.functional.interpolate``."""

# A constant map that was resized or blurred in float32 varies by a few roundings (6e-8 each).
_SMALLEST_SPREAD = 1e-6


def degenerate(maps: Tensor) -> Tensor:
    """Return which maps show nothing: constant, all zero, or with a value that is not finite.

    They are left out of every mean and drawn hatched. A map counts as constant if its largest and
    smallest value differ by no more than a millionth of its largest magnitude, which is what
    rounding in float32 makes of a constant.

    Args:
        maps: (N, 1, H, W), floating point.

    Returns:
        (N,), bool, on the same device.

    Raises:
        InputError: ``maps`` are no maps.
    """
    check_maps(maps)
    flat = maps.detach().flatten(1)
    # Only the extremes are needed in float64.
    low, high = (to_float64(extreme) for extreme in (flat.amin(1), flat.amax(1)))
    # Spelled so that NaN and inf, for which the comparison is never true, count as degenerate.
    varies = high - low > _SMALLEST_SPREAD * torch.maximum(low.abs(), high.abs())
    return ~varies.to(maps.device)


def check_maps(maps: object) -> Tensor:
    """Return ``maps`` if it is a batch of saliency maps, which may be empty.

    Args:
        maps: should be (N, 1, H, W), floating point, H and W at least 1.

    Raises:
        InputError: it is not.
    """
    if not isinstance(maps, Tensor):
        raise InputError(f"Expected maps as a tensor (N, 1, H, W), got {type(maps).__name__}.")
    if maps.dim() != 4 or maps.shape[1] != 1 or 0 in maps.shape[2:]:
        raise InputError(
            f"Expected maps of shape (N, 1, H, W), got shape {tuple(maps.shape)}. A single map is "
            "map[None, None]; channels are reduced by the attribution method."
        )
    if not maps.is_floating_point():
        raise InputError(f"Expected floating point maps, got {maps.dtype}. Give maps.float().")
    return maps


def unit_range(maps: Tensor) -> Tensor:
    """Return each map scaled to [0, 1] by its own range; NaN for a constant one.

    Args:
        maps: (N, 1, H, W), floating point.
    """
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low)


def to_float64(maps: Tensor) -> Tensor:
    """Return ``maps`` detached and in float64, on the CPU if their device has no float64.

    Args:
        maps: of any shape.
    """
    device = "cpu" if maps.device.type == "mps" else maps.device
    return maps.detach().to(device, torch.float64)


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's correlation along the last dimension; equal values share their mean rank.

    Args:
        first: (..., n), floating point.
        second: (..., n).

    Returns:
        (...), in [-1, 1]; NaN where one side is constant.

    Example:
        >>> values = torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> rank_correlation(values, values.exp())
        tensor(1.)
    """
    return correlation_of_ranks(mean_ranks(first), mean_ranks(second))


def mean_ranks(values: Tensor) -> Tensor:
    """Return the ranks along the last dimension, less their mean; equal values get their mean rank.

    Args:
        values: (..., n), floating point.

    Returns:
        The same shape and dtype. They are multiples of 1/2, so in float64 their sums are exact.
    """
    ordered, place = values.sort(-1)
    index = torch.arange(ordered.shape[-1], device=ordered.device)
    rises = ordered[..., 1:] > ordered[..., :-1]
    edge = torch.ones_like(ordered[..., :1], dtype=torch.bool)
    # Of each run of equal values the first and the last place.
    first = torch.where(torch.cat([edge, rises], -1), index, 0).cummax(-1).values
    last = torch.where(torch.cat([rises, edge], -1), index, len(index)).flip(-1).cummin(-1).values
    mean = (first + last.flip(-1)).to(values.dtype) / 2 - (len(index) - 1) / 2
    return torch.zeros_like(ordered).scatter_(-1, place, mean)


def correlation_of_ranks(first: Tensor, second: Tensor) -> Tensor:
    """Return the correlation of what :func:`mean_ranks` returned, along the last dimension.

    torchmetrics' ``spearman_corrcoef`` is not used: it adds up the ranks of ties in int32, which
    overflows from 65,536 values on, correlates in float32, and ranks row by row and pair by pair.

    Args:
        first: (..., n).
        second: (..., n).

    Returns:
        (...), in [-1, 1]; NaN where all ranks of one side are equal.
    """
    size = (first.square().sum(-1) * second.square().sum(-1)).sqrt()
    return ((first * second).sum(-1) / size).clamp(-1, 1)


def resize(image: Tensor, size: tuple[int, int], mode: ResizeMode = "bilinear") -> Tensor:
    """Resize to ``size``; the outer edges of the picture stay where they are.

    Args:
        image: (N, C, h, w), floating point.
        size: (height, width) in pixels.
        mode: ``"bilinear"``, ``"bicubic"``, ``"nearest"``, or ``"area"`` (the mean of the pixels
            that fall together; the right one for making a map smaller).

    Returns:
        (N, C, height, width); ``image`` itself if it has that size.

    Raises:
        InputError: ``mode`` is none of these.
    """
    if mode not in ("bilinear", "bicubic", "nearest", "area"):
        raise InputError(
            f"Expected 'bilinear', 'bicubic', 'nearest' or 'area' as resize_mode, got '{mode}'."
        )
    if tuple(image.shape[2:]) == tuple(size):
        return image
    align = False if mode in ("bilinear", "bicubic") else None
    return F.interpolate(image, size=tuple(size), mode=mode, align_corners=align)
