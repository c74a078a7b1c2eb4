"""Images as the loggers take them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.loggers.png import Pixels

__all__ = ["check_image", "to_pixels"]


def check_image(image: Tensor) -> None:
    """Raise unless ``image`` can be logged.

    Args:
        image: should be (3, H, W), floating point or uint8.

    Raises:
        InputError: it has another shape or type.
    """
    if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise InputError(f"Expected an image of shape (3, H, W), got {tuple(image.shape)}.")
    if not image.is_floating_point() and image.dtype != torch.uint8:
        raise InputError(f"Expected an image in [0, 1] or of dtype uint8, got {image.dtype}.")


def to_pixels(image: Tensor) -> Pixels:
    """Return an image as bytes; each value is rounded to the nearest of 256 steps.

    Args:
        image: (3, H, W), floating point in [0, 1] or uint8, on any device; NaN is black.

    Returns:
        (H, W, 3), uint8.

    Raises:
        InputError: ``image`` has another shape or type.
    """
    check_image(image)
    pixels = image.detach().cpu()
    if pixels.dtype != torch.uint8:
        pixels = pixels.float().nan_to_num(0.0).clamp_(0, 1).mul_(255).round_().byte()
    # Always uint8, which numpy's types cannot know of a tensor.
    return np.asarray(pixels.permute(1, 2, 0).contiguous().numpy(), np.uint8)
