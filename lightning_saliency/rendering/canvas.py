"""A white sheet that pictures and text are put on; all drawing goes through here."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_saliency.rendering.colormap import DIVERGING, SEQUENTIAL, apply_colormap
from lightning_saliency.rendering.scale import ColourScale
from lightning_saliency.rendering.text import font, shorten, text_width

__all__ = ["Canvas", "INK", "PALE_INK", "fit_cell", "reduced", "to_bytes"]

PAPER = (255, 255, 255)
INK = (34, 34, 34)
PALE_INK = (110, 110, 110)

_LARGEST_STAMP, _SMALLEST_STAMP = 22, 8


class Canvas:
    """A white sheet.

    Args:
        height: in pixels.
        width: in pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self._sheet = Image.new("RGB", (width, height), PAPER)
        self._draw = ImageDraw.Draw(self._sheet)

    def paste(
        self, picture: Tensor, top: int, left: int, size: tuple[int, int] | None = None
    ) -> None:
        """Put a picture (3, h, w), in [0, 1] or uint8, with its corner at (top, left).

        If a size (height, width) is given, it is enlarged to it without blurring, or reduced to it
        without aliasing.
        """
        shown = _to_pillow(picture)
        self._sheet.paste(shown if size is None else _resized(shown, size), (left, top))

    def text(
        self,
        text: str,
        top: int,
        left: int,
        *,
        width: int,
        size: int,
        align: Literal["left", "centre", "right"] = "left",
        ink: tuple[int, int, int] = INK,
    ) -> None:
        """Write one line into the box that starts at (top, left), shortened to its width."""
        line = shorten(text, width, size)
        free = width - text_width(line, size)
        indent = {"left": 0, "centre": free // 2, "right": free}[align]
        self._draw.text((left + indent, top), line, fill=ink, font=font(size))

    def stamp(self, word: str, top: int, left: int, height: int, width: int) -> None:
        """Write a word on a white plate in the middle of the box, as large as fits."""
        size = max(_SMALLEST_STAMP, min(_LARGEST_STAMP, height // 4))
        while size > _SMALLEST_STAMP and text_width(word, size) + size // 3 > width:
            size -= 1
        line = shorten(word, width - size // 3, size)
        wide, high = text_width(line, size) + size // 3, size + size // 3
        x, y = left + (width - wide) // 2, top + (height - high) // 2
        self._draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=PAPER, outline=INK)
        self._draw.text((x + wide / 2, y + high / 2), line, INK, font(size), anchor="mm")

    def bar(self, top: int, left: int, height: int, width: int, ink: tuple[int, int, int]) -> None:
        """Fill a rectangle; nothing if it has no width."""
        if width > 0:
            self._draw.rectangle((left, top, left + width - 1, top + height - 1), fill=ink)

    def legend(
        self, scale: ColourScale, signed: bool, top: int, left: int, size: int, width: int
    ) -> int:
        """Draw the colours from no colour to full colour between their labels.

        Args:
            scale: what full colour stands for.
            signed: whether the colours go below zero.
            top: where the line of text starts, in pixels.
            left: where the labels start, in pixels.
            size: font size.
            width: of the coloured bar, in pixels.

        Returns:
            How many pixels wide the whole is.
        """
        low, high = ("≤ -" + scale.label() if signed else "0"), "≥ " + scale.label()
        gap = size // 2
        start = left + text_width(low, size) + gap
        end = start + width + gap
        self.text(low, top, left, width=start - left, size=size)
        self.paste(_ramp(size - 2, width, signed), top + 3, start)
        self.text(high, top, end, width=text_width(high, size), size=size)
        return end + text_width(high, size) - left

    def picture(self) -> Tensor:
        """Return the sheet (3, height, width), float32 in [0, 1], multiples of 1/255."""
        return _from_pillow(self._sheet).float().div_(255)


@lru_cache(maxsize=8)
def _ramp(height: int, width: int, signed: bool) -> Tensor:
    values = torch.linspace(0, 1, width).expand(1, 1, height, width)
    return to_bytes(apply_colormap(values, DIVERGING if signed else SEQUENTIAL)[0])


def to_bytes(picture: Tensor) -> Tensor:
    """Return a picture as bytes, each value rounded to the nearest step.

    Args:
        picture: of any shape, floating point in [0, 1] or uint8, on any device; NaN becomes 0.

    Returns:
        The same shape, uint8, on the CPU.
    """
    picture = picture.detach().cpu()
    if picture.dtype == torch.uint8:
        return picture
    return (picture.float().nan_to_num(0.0).clamp(0, 1) * 255).round().byte()


def fit_cell(size: tuple[int, int], least: int, most: int) -> tuple[int, int]:
    """Return the size at which a picture is shown.

    Small ones grow by a whole factor, so that their pixels stay square and sharp; large ones
    shrink. One whose longer side would jump from below ``least`` to above ``most`` stays below.

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


def reduced(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Return pictures in another size, as :meth:`Canvas.paste` shows them.

    Args:
        picture: (N, 3, h, w), in [0, 1] or uint8.
        size: (height, width).

    Returns:
        (N, 3, height, width), uint8, on the CPU.
    """
    return torch.stack([_from_pillow(_resized(_to_pillow(one), size)) for one in picture])


def _to_pillow(picture: Tensor) -> Image.Image:
    return Image.fromarray(to_bytes(picture).permute(1, 2, 0).contiguous().numpy())


def _from_pillow(picture: Image.Image) -> Tensor:
    # A view: the colours of a pixel stay together in memory, which saves two copies until the file.
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    if (picture.height, picture.width) == size:
        return picture
    grows = height >= picture.height and width >= picture.width
    # Pillow's bilinear filter widens when it reduces, so that no pixel is passed over.
    how = Image.Resampling.NEAREST if grows else Image.Resampling.BILINEAR
    return picture.resize((width, height), how)
