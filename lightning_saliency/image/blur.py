"""Gaussian blur."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError


def gaussian_blur(
    image: Tensor, sigma: float, padding: str = "replicate", truncate: float = 3.0
) -> Tensor:
    """Blur each channel with a Gaussian.

    The kernel sums to 1.

    Args:
        image: (N, C, H, W), floating point.
        sigma: standard deviation in pixels, >= 0; 0 returns the image as it is.
        padding: what lies outside the image: ``"replicate"`` (the nearest edge pixel, so that a
            constant image stays constant) or ``"constant"`` (zeros, which darkens the edges).
        truncate: where the kernel ends, in sigmas.

    Returns:
        (N, C, H, W), same dtype.

    Raises:
        InputError: ``sigma`` is negative or not finite, or ``padding`` is unknown.
    """
    if not 0 <= sigma < math.inf:
        raise InputError(f"Expected sigma >= 0 pixels, got {sigma}.")
    if padding not in ("replicate", "constant"):
        raise InputError(f"Expected padding 'replicate' or 'constant', got '{padding}'.")
    radius = math.ceil(truncate * sigma)
    if radius == 0:
        return image
    # Computed in float32 at least: a bfloat16 kernel does not sum to 1.
    dtype = torch.promote_types(image.dtype, torch.float32)
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    count, channels, height, width = image.shape
    blurred = image.to(dtype).reshape(count * channels, 1, height, width)
    for shape, pad in (
        ((1, 1, -1, 1), (0, 0, radius, radius)),
        ((1, 1, 1, -1), (radius, radius, 0, 0)),
    ):
        blurred = F.conv2d(F.pad(blurred, pad, mode=padding), kernel.view(shape))
    return blurred.reshape(image.shape).to(image.dtype)
