"""A white canvas for pictures and text; all drawing goes through here."""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_saliency.rendering.colors import TICKS, ColorScale, ramp_colors, ramp_opacity
from lightning_saliency.rendering.pixels import from_pillow, resized, to_pillow

# In heights and widths of the picture; that of a square of a tenth of it is 0.6.
_LONGEST_OUTLINE = 2


@lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font of all pictures, DejaVu Sans, which comes with matplotlib.

    Args:
        size: height of a line in pixels, roughly.
        bold: whether its letters are bold.
    """
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


@lru_cache(maxsize=512)
def text_width(text: str, size: int, bold: bool = False) -> int:
    """Return how many pixels wide a line is.

    Args:
        text: one line.
        size: font size.
        bold: whether its letters are bold.
    """
    return round(font(size, bold).getlength(text) + 0.5)


def shorten(text: str, width: int, size: int, bold: bool = False) -> str:
    """Return ``text`` as one line that fits, truncated with an ellipsis if needed.

    Args:
        text: any text; line breaks and tabs become spaces.
        width: pixels that it may take.
        size: font size.
        bold: whether its letters are bold.

    Returns:
        The text; empty if not even the ellipsis fits.
    """
    line = re.sub(r"\s*[\r\n]\s*|\t", " ", text).strip()
    if text_width(line, size, bold) <= width:
        return line

    def shortened(kept: int) -> str:
        return line[:kept].rstrip() + "…"

    # The width grows with the number of characters kept.
    kept = range(len(line) + 1)
    fitting = bisect_right(kept, width, key=lambda count: text_width(shortened(count), size, bold))
    return shortened(fitting - 1) if fitting else ""


def wrap(text: str, width: int, size: int, bold: bool = False) -> list[str]:
    """Return ``text`` as lines that fit, broken after spaces, underscores and slashes.

    Args:
        text: any text, such as ``"contrastive_excitation_backprop"``.
        width: pixels that a line may take.
        size: font size.
        bold: whether its letters are bold.

    Returns:
        The lines, none for an empty text. A part that is too long for a line has one of its own.

    Example:
        >>> wrap("contrastive_excitation_backprop", 120, 11)
        ['contrastive_', 'excitation_backprop']
    """
    lines: list[str] = []
    for part in re.findall(r"[^\s_/]*[\s_/]?", text):
        if part and lines and text_width((lines[-1] + part).rstrip(), size, bold) <= width:
            lines[-1] += part
        elif part:
            lines.append(part)
    return [line.rstrip() for line in lines]


PAPER = (255, 255, 255)
INK = (26, 26, 26)
PALE_INK = (102, 102, 102)
LEGEND = ("times the map's own mean", "gray: below its mean")
"""What the numbers of the color bar are, in two lines."""

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
        bold: bool = False,
    ) -> None:
        """Write one line into the box that starts at (top, left), shortened to its width."""
        line = shorten(text, width, size, bold)
        free = width - text_width(line, size, bold)
        indent = {"left": 0, "center": free // 2, "right": free}[align]
        if line:
            self._sheet.paste(ink, (left + indent - size, top - size), _letters(line, size, bold))

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

    def line(
        self,
        points: Sequence[tuple[float, float]],
        ink: tuple[int, int, int],
        width: int = 2,
        dash: int = 0,
    ) -> None:
        """Draw a line through points (top, left); with gaps as long as its dashes, if any."""
        places = [(left, top) for top, left in points]
        if not dash:
            self._draw.line(places, fill=ink, width=width, joint="curve")
            return
        for start, end in _dashes(places, dash):
            self._draw.line((*start, *end), fill=ink, width=width)

    def dot(self, top: float, left: float, radius: int, ink: tuple[int, int, int]) -> None:
        """Fill a circle around (top, left)."""
        box = (left - radius, top - radius, left + radius, top + radius)
        self._draw.ellipse(box, fill=ink)

    def polygon(
        self, points: Sequence[tuple[float, float]], ink: tuple[int, int, int], edge: bool = False
    ) -> None:
        """Fill the area between points (top, left), with a white edge if wanted."""
        places = [(left, top) for top, left in points]
        self._draw.polygon(places, fill=ink, outline=PAPER if edge else None)

    def outline(self, marked: Tensor, top: int, left: int, size: tuple[int, int]) -> None:
        """Draw the border of marked pixels (h, w), bool, over a picture of a size (height, width).

        It is white with dark edges, to stand out from all colors; a thin line where the pixels are
        so scattered that nothing else could be seen between the lines.
        """
        lines = [
            (
                left + x * size[1],
                top + y * size[0],
                left + to_x * size[1],
                top + to_y * size[0],
            )
            for y, x, to_y, to_x in _edges(marked)
        ]
        length = sum(abs(right - x) + abs(end - y) for x, y, right, end in lines)
        scattered = length > _LONGEST_OUTLINE * (size[0] + size[1])
        for ink, width in ((PAPER, 1),) if scattered else ((INK, 4), (PAPER, 2)):
            for line in lines:
                self._draw.line(line, fill=ink, width=width)

    def frame(
        self, top: int, left: int, size: tuple[int, int], ink: tuple[int, int, int], width: int = 3
    ) -> None:
        """Draw a frame around a picture of a size (height, width), with a white gap of a pixel."""
        outer = 1 + width
        box = (left - outer, top - outer, left + size[1] + outer - 1, top + size[0] + outer - 1)
        self._draw.rectangle(box, outline=ink, width=width)

    def legends(
        self,
        scales: Sequence[tuple[ColorScale, bool]],
        top: int,
        left: int,
        size: int,
        width: int,
        pitch: int,
    ) -> None:
        """Draw several legends below each other, with their bars in a column.

        Args:
            scales: each with whether its colors go below zero.
            top: where the first bar starts, in pixels.
            left: where the widest of the first labels starts.
            size: font size.
            width: of the colored bars.
            pitch: from the top of one to the top of the next.
        """
        margin = max((_margin(scale, signed, size) for scale, signed in scales), default=0)
        for number, (scale, signed) in enumerate(scales):
            indent = margin - _margin(scale, signed, size)
            self.legend(scale, signed, top + number * pitch, left + indent, size, width)

    def legend(
        self, scale: ColorScale, signed: bool, top: int, left: int, size: int, width: int
    ) -> int:
        """Draw the colors with their values beneath them, and say beside them what these are.

        Two lines of text are high.

        Args:
            scale: what full color stands for.
            signed: whether the colors go below zero.
            top: where the bar starts, in pixels.
            left: where the labels start, in pixels.
            size: font size.
            width: of the colored bar, in pixels.

        Returns:
            Its total width in pixels.
        """
        ticks = _ticks(scale, signed)
        start, below = left + _margin(scale, signed, size), top + size + 1
        self._sheet.paste(_ramp(size, width, signed), (start, top))
        for place, label in ticks:
            wide = text_width(label, size)
            self.text(label, below, start + round(place * width) - wide // 2, width=wide, size=size)
        end = start + width + text_width(ticks[-1][1], size) // 2 + size
        if scale.unit == "value":
            return end - left
        widest = max(text_width(line, size) for line in LEGEND)
        for line, place, ink in zip(LEGEND, (top - 1, below), (INK, PALE_INK), strict=True):
            self.text(line, place, end, width=widest, size=size, ink=ink)
        return end + widest - left

    def picture(self) -> Tensor:
        """Return the canvas (3, height, width), uint8."""
        return from_pillow(self._sheet)


def _edges(marked: Tensor) -> list[tuple[float, float, float, float]]:
    """Return the border lines of marked pixels, as shares of the height and the width.

    Args:
        marked: (h, w), bool.

    Returns:
        (top, left, bottom, right) of each line, from 0 to 1.
    """
    high, wide = marked.shape
    padded = torch.zeros(high + 2, wide + 2, dtype=torch.bool)
    padded[1:-1, 1:-1] = marked.cpu()
    across = (padded[1:] != padded[:-1])[:, 1:-1].nonzero().tolist()
    down = (padded[:, 1:] != padded[:, :-1])[1:-1].nonzero().tolist()
    return [
        *((y / high, x / wide, y / high, (x + 1) / wide) for y, x in across),
        *((y / high, x / wide, (y + 1) / high, x / wide) for y, x in down),
    ]


def _ticks(scale: ColorScale, signed: bool) -> list[tuple[float, str]]:
    """Return the labels of the color bar, each with its place from 0 to 1."""
    if scale.unit == "value":
        low, high = (f"-{scale.label()}", 0.5) if signed else ("0", None)
        middle = [] if high is None else [(high, "0")]
        return [(0.0, low), *middle, (1.0, scale.label())]
    full = f"{scale.full:g}x"
    if signed:
        return [(0.0, f"-{full}"), (0.5, "\N{PLUS-MINUS SIGN}1x"), (1.0, full)]
    shares = torch.tensor([share for share in TICKS if share < scale.full], dtype=torch.float64)
    places = zip(scale.place(shares).tolist(), shares.tolist(), strict=True)
    return [*((place, f"{share:g}x") for place, share in places), (1.0, full)]


def _margin(scale: ColorScale, signed: bool, size: int) -> int:
    """Return how far the first label of a color bar stands out to the left, in pixels."""
    return text_width(_ticks(scale, signed)[0][1], size) // 2 + 1


def _dashes(
    places: Sequence[tuple[float, float]], length: int
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the pieces of a line that are drawn."""
    pieces = []
    for (x, y), (to_x, to_y) in pairwise(places):
        whole = max(1e-9, math.hypot(to_x - x, to_y - y))
        for start in range(0, math.ceil(whole), 2 * length):
            first, last = start / whole, min(1.0, (start + length) / whole)
            pieces.append(
                (
                    (x + first * (to_x - x), y + first * (to_y - y)),
                    (x + last * (to_x - x), y + last * (to_y - y)),
                )
            )
    return pieces


@lru_cache(maxsize=8)
def _ramp(height: int, width: int, signed: bool) -> Image.Image:
    values = torch.linspace(-1 if signed else 0, 1, width).expand(1, 1, height, width)
    gray = torch.full((1, 3, 1, 1), 0.5)
    return to_pillow((gray + ramp_opacity(values) * (ramp_colors(values) - gray))[0])


# The panels of a run have most of their words in common, and drawing letters is slow.
@lru_cache(maxsize=256)
def _letters(line: str, size: int, bold: bool) -> Image.Image:
    """Return how dark each pixel is when a line is written, with ``size`` pixels left around it."""
    mask = Image.new("L", (text_width(line, size, bold) + 2 * size, 4 * size))
    ImageDraw.Draw(mask).text((size, size), line, fill=255, font=font(size, bold))
    step = 255 // (_SHADES - 1)
    return mask.point([(shade + step // 2) // step * step for shade in range(256)])
