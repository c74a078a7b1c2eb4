"""Change the size of images and maps."""

from typing import Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError

ResizeMode: TypeAlias = Literal["bilinear", "bicubic", "nearest", "area"]
"""How values between the pixels are found: the modes of ``torch.nn.functional.interpolate``."""


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
