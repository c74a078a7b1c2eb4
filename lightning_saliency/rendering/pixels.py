"""Pictures as bytes, and resized pictures."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

__all__ = ["fit_cell", "from_pillow", "resized", "to_bytes", "to_pillow"]


def to_bytes(picture: Tensor, steps: int = 256) -> Tensor:
    """Return pictures as bytes, each value rounded to the nearest step.

    Args:
        picture: of any shape, floating point in [0, 1] or uint8, on any device; NaN becomes 0.
        steps: how many there are, at least 2, evenly from 0 to 255; a picture that is uint8 already
            keeps its values.

    Returns:
        The same shape, uint8, on the CPU. The three colors of a pixel, dimension -3, are contiguous
        in memory, as in an image file, so that each picture of a batch is copied as a whole.
    """
    picture = picture.detach().cpu()
    if picture.dtype != torch.uint8:
        picture = picture.float().nan_to_num(0.0).clamp(0, 1).mul_(steps - 1).round_()
        picture = picture.mul_(255 / (steps - 1)).round_().byte()
    if picture.dim() < 3:
        return picture
    return picture.movedim(-3, -1).contiguous().movedim(-1, -3)


def fit_cell(size: tuple[int, int], least: int, most: int) -> tuple[int, int]:
    """Return the size at which a picture is shown.

    Small ones are enlarged by an integer factor, so that their pixels stay square and sharp; large
    ones are reduced. If no integer factor reaches ``least`` without exceeding ``most``, the
    picture stays below ``least``.

    Args:
        size: (height, width) of the picture.
        least: wanted length of the longer side, in pixels.
        most: greatest length of the longer side.

    Returns:
        (height, width), both >= 1.

    Example:
        >>> [fit_cell(size, 192, 256) for size in ((28, 28), (160, 120), (512, 256))]
        [(196, 196), (160, 120), (256, 128)]
    """
    longer = max(size)
    if longer > most:
        return max(1, round(size[0] * most / longer)), max(1, round(size[1] * most / longer))
    factor = max(1, min(-(-least // longer), most // longer))
    return size[0] * factor, size[1] * factor


def resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Return pictures in another size: enlarged without blurring, or reduced without aliasing.

    Args:
        pictures: (N, 3, h, w), in [0, 1] or uint8.
        size: (height, width).

    Returns:
        (N, 3, height, width), uint8, on the CPU.
    """
    shown = to_bytes(pictures)
    if tuple(shown.shape[2:]) == size:
        return shown
    if size[0] >= shown.shape[2] and size[1] >= shown.shape[3]:
        return torch.stack([from_pillow(to_pillow(one, size)) for one in shown])
    # With antialias the filter widens as it reduces, so that no pixel is passed over.
    return F.interpolate(shown, size=size, mode="bilinear", antialias=True)


def to_pillow(picture: Tensor, size: tuple[int, int] | None = None) -> Image.Image:
    """Return a picture (3, h, w), in [0, 1] or uint8, as one of Pillow.

    Args:
        picture: one picture.
        size: (height, width) if it is to be resized, see :func:`resized`.
    """
    height, width = size or picture.shape[1:]
    if height < picture.shape[1] or width < picture.shape[2]:
        picture = resized(picture[None], (height, width))[0]
    shown = Image.fromarray(to_bytes(picture).permute(1, 2, 0).numpy())
    if shown.size == (width, height):
        return shown
    # Torch takes ten times as long to repeat pixels.
    return shown.resize((width, height), Image.Resampling.NEAREST)


def from_pillow(picture: Image.Image) -> Tensor:
    """Return an RGB picture of Pillow as (3, H, W), uint8, the colors of a pixel together."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
