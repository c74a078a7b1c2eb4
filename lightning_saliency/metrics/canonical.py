"""The form in which saliency maps are compared, and the maps that cannot be compared at all."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError

__all__ = ["canonical", "check_maps", "degenerate", "to_float64"]

# A constant map that was resized or blurred in float32 varies by a few roundings (6e-8 each).
_SMALLEST_SPREAD = 1e-6


def canonical(maps: Tensor, size: int = 64) -> Tensor:
    """Bring maps to the form in which they are kept and compared.

    They are shrunk, never enlarged, so that the longer side has at most ``size`` pixels; each new
    pixel is the mean of the area that it covers, and the aspect ratio stays (to the pixel).

    Args:
        maps: (N, 1, H, W), floating point, any device; may need a gradient.
        size: longest side in pixels, >= 1.

    Returns:
        (N, 1, h, w), a detached copy on the same device; float64 for float64 maps, else float32. A
        constant map stays exactly constant, a NaN or inf anywhere leaves one in its area.

    Raises:
        InputError: ``maps`` are no maps, or ``size`` is below 1.
    """
    check_maps(maps)
    if size < 1:
        raise InputError(f"Expected maps to be compared at a size of at least 1 pixel, got {size}.")
    dtype = torch.promote_types(maps.dtype, torch.float32)
    longest = max(maps.shape[2:])
    if longest > size:
        height, width = (max(1, round(side * size / longest)) for side in maps.shape[2:])
        # In float64, where the mean of equal float32 values is that value.
        shrunk = F.interpolate(to_float64(maps), size=(height, width), mode="area")
        return shrunk.to(dtype).to(maps.device)
    return maps.detach().to(dtype, copy=True)


def degenerate(maps: Tensor) -> Tensor:
    """Tell which maps show nothing: constant, all zero, or not finite everywhere.

    A map counts as constant if its largest and smallest value differ by no more than a millionth
    of its largest magnitude, which is what rounding in float32 makes of a constant.

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
