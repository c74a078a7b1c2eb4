"""Pictures as bytes and as Pillow's, in another size, and the model's input as a picture."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lightning_saliency.errors import InputError


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


def png_of(picture: Tensor) -> bytes:
    """Return a picture (3, H, W), in [0, 1] or uint8, as a PNG file."""
    file = BytesIO()
    to_pillow(picture).save(file, "PNG")
    return file.getvalue()


class Picture(Tensor):
    """A picture (3, H, W), uint8, that a notebook shows."""

    def _repr_png_(self) -> bytes | None:
        whole = self.dim() == 3 and self.shape[0] == 3 and self.dtype == torch.uint8
        return png_of(self.as_subclass(Tensor)) if whole else None


# Un-normalizing and resampling exceed [0, 1] by this much; more means that the range is different.
_SLACK = 0.05


def displayable(
    image: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Tensor:
    """Return the images as RGB in [0, 1].

    Three channels are red, green and blue; of four, the first three are (the fourth is alpha or
    infrared, which a screen cannot show). One channel is gray. Two channels, or five and more, have
    no agreed colors, and the mean of the channels is shown in gray rather than colors that mean
    nothing.

    Values outside of [0, 1] after un-normalizing are scaled linearly, the smallest of the whole
    batch to 0 and the largest to 1, so that the samples of a batch stay comparable.

    Args:
        image: (N, C, H, W) of any real dtype, on any device; uint8 is taken as 0 to 255.
        mean: what was subtracted from each channel, one value or C; None for nothing.
        std: what each channel was divided by afterwards, one value or C, not 0; None for nothing.

    Returns:
        (N, 3, H, W), float32 in [0, 1], on the CPU; pixels that are not finite are black.

    Raises:
        InputError: the shape, or the length of ``mean`` or ``std``, is another; ``std`` holds 0.
    """
    if image.dim() != 4 or image.numel() == 0:
        raise InputError(f"Expected images of shape (N, C, H, W), got {tuple(image.shape)}.")
    shown = image.detach().cpu()
    shown = shown.float() / 255 if shown.dtype == torch.uint8 else shown.float()
    channels = image.shape[1]
    if std is not None:
        shown = shown * _per_channel("std", std, channels)
    if mean is not None:
        shown = shown + _per_channel("mean", mean, channels)
    shown = shown[:, :3] if channels in (3, 4) else shown.mean(1, keepdim=True)
    return _to_unit_range(shown).expand(-1, 3, -1, -1).contiguous()


def _per_channel(name: str, values: Sequence[float], channels: int) -> Tensor:
    factor = torch.as_tensor(values, dtype=torch.float32).flatten().cpu()
    if len(factor) not in (1, channels):
        raise InputError(
            f"Expected {name} to hold 1 or {channels} values, one for each channel of the images, "
            f"got {len(factor)}."
        )
    if not bool(factor.isfinite().all()) or (name == "std" and bool((factor == 0).any())):
        raise InputError(f"Expected {name} to be finite and std not 0, got {list(values)}.")
    return factor.view(1, -1, 1, 1)


def _to_unit_range(image: Tensor) -> Tensor:
    finite = image.isfinite()
    if not bool(finite.any()):
        return torch.zeros_like(image)
    low, high = image.where(finite, torch.inf).min(), image.where(finite, -torch.inf).max()
    if low < -_SLACK or high > 1 + _SLACK:
        # Halved, because the range of very large values can be infinite.
        span = (high / 2 - low / 2).clamp(min=torch.finfo(image.dtype).tiny)
        image = (image / 2 - low / 2) / span
    return torch.where(finite, image, 0.0).clamp(0, 1)
