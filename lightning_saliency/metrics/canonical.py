"""The form in which saliency maps are compared."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.image.saliency_map import check_maps, degenerate, to_float64

__all__ = ["canonical", "check_maps", "degenerate", "to_float64"]


def canonical(maps: Tensor, size: int = 64) -> Tensor:
    """Return maps in the form in which they are kept and compared.

    They are downsampled, never enlarged, so that the longer side has at most ``size`` pixels; each
    new pixel is the mean of the area that it covers, and the aspect ratio is kept (to the pixel).

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
