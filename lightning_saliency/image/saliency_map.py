"""Checks of saliency maps, and which of them show nothing."""

import torch
from torch import Tensor

from lightning_saliency.errors import InputError

__all__ = ["check_maps", "degenerate", "to_float64"]

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


def to_float64(maps: Tensor) -> Tensor:
    """Return ``maps`` detached and in float64, on the CPU if their device has no float64.

    Args:
        maps: of any shape.
    """
    device = "cpu" if maps.device.type == "mps" else maps.device
    return maps.detach().to(device, torch.float64)
