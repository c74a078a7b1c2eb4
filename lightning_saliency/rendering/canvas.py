"""A white canvas for pictures and text; all drawing goes through here."""

import re
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path
from typing import Literal

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_saliency.rendering.colors import DIVERGING, SEQUENTIAL, ColorScale, apply_colormap
from lightning_saliency.rendering.pixels import from_pillow, resized, to_pillow


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of all pictures, DejaVu Sans, which comes with matplotlib.

    Args:
        size: height of a line in pixels, roughly.
    """
    return ImageFont.truetype(
        Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size
    )


@lru_cache(maxsize=512)
def text_width(text: str, size: int) -> int:
    """Return how many pixels wide a line is.

    Args:
        text: one line.
        size: font size.
    """
    return round(font(size).getlength(text) + 0.5)


def shorten(text: str, width: int, size: int) -> str:
    """Return ``text`` as one line that fits, truncated with an ellipsis if needed.

    Args:
        text: any text; line breaks and tabs become spaces.
        width: pixels that it may take.
        size: font size.

    Returns:
        The text; empty if not even the ellipsis fits.
    """
    line = re.sub(r"\s*[\r\n]\s*|\t", " ", text).strip()
    if text_width(line, size) <= width:
        return line

    def shortened(kept: int) -> str:
        return line[:kept].rstrip() + "…"

    # The width grows with the number of characters kept.
    kept = range(len(line) + 1)
    fitting = bisect_right(kept, width, key=lambda count: text_width(shortened(count), size))
    return shortened(fitting - 1) if fitting else ""


def wrap(text: str, width: int, size: int) -> list[str]:
    """Return ``text`` as lines that fit, broken after spaces, underscores and slashes.

    Args:
        text: any text, such as ``"contrastive_excitation_backprop"``.
        width: pixels that a line may take.
        size: font size.

    Returns:
        The lines, none for an empty text. A part that is too long for a line has one of its own.

    Example:
        >>> wrap("contrastive_excitation_backprop", 120, 11)
        ['contrastive_', 'excitation_backprop']
    """
    lines: list[str] = []
    for part in re.findall(r"[^\s_/]*[\s_/]?", text):
        if part and lines and text_width((lines[-1] + part).rstrip(), size) <= width:
            lines[-1] += part
        elif part:
            lines.append(part)
    return [line.rstrip() for line in lines]


PAPER = (255, 255, 255)
INK = (34, 34, 34)
PALE_INK = (110, 110, 110)

_LARGEST_STAMP, _SMALLEST_STAMP = 22, 8
# Letters have this many shades; more are not visible, and files are a few percent smaller.
_SHADES = 16


class Canvas:
    """A white canvas.

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
        """Draw a picture (3, h, w), in [0, 1] or uint8, with its corner at (top, left).

        If a size (height, width) is given, it is enlarged to it without blurring, or reduced to it
        without aliasing.
        """
        self._sheet.paste(to_pillow(picture, size), (left, top))

    def paste_column(
        self, pictures: Tensor, top: int, left: int, size: tuple[int, int], pitch: int
    ) -> None:
        """Draw pictures (N, 3, h, w) below each other, with white gaps.

        Args:
            pictures: in [0, 1] or uint8.
            top: where the first one starts, in pixels.
            left: where they all start.
            size: (height, width) that each is enlarged or reduced to.
            pitch: from the top of one to the top of the next, in pixels.
        """
        column = torch.full((len(pictures), pitch, size[1], 3), 255, dtype=torch.uint8)
        column[:, : size[0]] = resized(pictures, size).permute(0, 2, 3, 1)
        self.paste(column.flatten(0, 1).permute(2, 0, 1), top, left)

    def text(
        self,
        text: str,
        top: int,
        left: int,
        *,
        width: int,
        size: int,
        align: Literal["left", "center", "right"] = "left",
        ink: tuple[int, int, int] = INK,
    ) -> None:
        """Write one line into the box that starts at (top, left), shortened to its width."""
        line = shorten(text, width, size)
        free = width - text_width(line, size)
        indent = {"left": 0, "center": free // 2, "right": free}[align]
        if line:
            self._sheet.paste(ink, (left + indent - size, top - size), _letters(line, size))

    def stamp(self, word: str, top: int, left: int, height: int, width: int) -> None:
        """Write a word on a white plate in the middle of the box, as large as it fits."""
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
        self, scale: ColorScale, signed: bool, top: int, left: int, size: int, width: int
    ) -> int:
        """Draw the colors from no color to full color between their labels.

        Args:
            scale: what full color stands for.
            signed: whether the colors go below zero.
            top: where the line of text starts, in pixels.
            left: where the labels start, in pixels.
            size: font size.
            width: of the colored bar, in pixels.

        Returns:
            Its total width in pixels.
        """
        high = "≥ " + scale.label()
        # The unit is written at the other end.
        low = "≤ -" + scale.label().split()[0] if signed else "0"
        gap = size // 2
        start = left + text_width(low, size) + gap
        end = start + width + gap
        self.text(low, top, left, width=start - left, size=size)
        self._sheet.paste(_ramp(size - 2, width, signed), (start, top + 3))
        self.text(high, top, end, width=text_width(high, size), size=size)
        return end + text_width(high, size) - left

    def picture(self) -> Tensor:
        """Return the canvas (3, height, width), uint8."""
        return from_pillow(self._sheet)


@lru_cache(maxsize=8)
def _ramp(height: int, width: int, signed: bool) -> Image.Image:
    values = torch.linspace(0, 1, width).expand(1, 1, height, width)
    return to_pillow(apply_colormap(values, DIVERGING if signed else SEQUENTIAL)[0])


# The panels of a run have most of their words in common, and drawing letters is slow.
@lru_cache(maxsize=256)
def _letters(line: str, size: int) -> Image.Image:
    """Return how dark each pixel is when a line is written, with ``size`` pixels left around it."""
    mask = Image.new("L", (text_width(line, size) + 2 * size, 4 * size))
    ImageDraw.Draw(mask).text((size, size), line, fill=255, font=font(size))
    step = 255 // (_SHADES - 1)
    return mask.point([(shade + step // 2) // step * step for shade in range(256)])
