"""Pictures side by side under their titles, with text beneath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.canvas import PALE_INK, Canvas
from lightning_saliency.rendering.pixels import fit_cell
from lightning_saliency.rendering.scale import ColourScale
from lightning_saliency.rendering.text import wrap

__all__ = ["Cell", "grid"]

_LEAST, _MOST = 128, 256
_GAP, _MARGIN = 6, 10
_FONT, _LINE = 14, 20
_SMALL_FONT, _SMALLEST_FONT = 12, 11
_MOST_LINES = 2
_LEGEND = 56


@dataclass(frozen=True)
class Cell:
    """One picture of a grid.

    Attributes:
        picture: (3, H, W), in [0, 1]; None leaves the place empty.
        title: written above it.
        stamp: a word written across it, or ``""``.
    """

    picture: Tensor | None = None
    title: str = ""
    stamp: str = ""


def grid(
    rows: Sequence[Sequence[Cell]],
    caption: Sequence[str] = (),
    legends: Sequence[tuple[ColourScale, bool]] = (),
    remark: str = "",
) -> Tensor:
    """Draw rows of pictures.

    All are shown in the size that the first one gets: enlarged by a whole factor until its longer
    side is at least 128 pixels, or reduced to 256.

    Args:
        rows: the cells, top to bottom and left to right; rows may be of unequal length. A row in
            which no cell has a title takes no space for titles.
        caption: lines of text beneath.
        legends: colour scales for the last line, each with whether its colours have a sign.
        remark: text at the right end of the last line.

    Returns:
        (3, height, width), RGB, uint8, on the CPU.

    Raises:
        InputError: there is no picture, or one has another shape.
    """
    pictures = [cell.picture for row in rows for cell in row if cell.picture is not None]
    if not pictures:
        raise InputError("Expected at least one picture in the grid, got none.")
    for picture in pictures:
        if picture.dim() != 3 or picture.shape[0] != 3 or picture.numel() == 0:
            raise InputError(f"Expected a picture of shape (3, H, W), got {tuple(picture.shape)}.")
    size = fit_cell((pictures[0].shape[1], pictures[0].shape[2]), _LEAST, _MOST)
    slot = max(size[1], _LEAST)
    heads = [_LINE * max(len(_title(cell, slot)[0]) for cell in row) for row in rows]
    foot = _MARGIN + sum(heads) + len(rows) * (size[0] + _GAP)
    last = bool(legends or remark)
    width = 2 * _MARGIN + max(map(len, rows)) * (slot + _GAP) - _GAP
    sheet = Canvas(foot + (len(caption) + last) * _LINE + _MARGIN, width)
    top = _MARGIN
    for row, head in zip(rows, heads, strict=True):
        for place, cell in enumerate(row):
            _draw_cell(sheet, cell, top, head, _MARGIN + place * (slot + _GAP), slot, size)
        top += head + size[0] + _GAP
    for line in caption:
        sheet.text(line, top, _MARGIN, width=width - 2 * _MARGIN, size=_FONT)
        top += _LINE
    left = _MARGIN
    for scale, signed in legends:
        left += sheet.legend(scale, signed, top, left, _SMALL_FONT, _LEGEND) + 2 * _SMALL_FONT
    left -= _SMALL_FONT if legends else 0
    free = max(0, width - _MARGIN - left)
    sheet.text(remark, top, left, width=free, size=_SMALL_FONT, align="right")
    return sheet.picture()


def _title(cell: Cell, width: int) -> tuple[list[str], int]:
    """Return the lines of a title, one or two, and the largest font in which they fit."""
    for size in range(_FONT, _SMALLEST_FONT, -1):
        lines = wrap(cell.title, width, size)
        if len(lines) <= _MOST_LINES:
            return lines, size
    lines = wrap(cell.title, width, _SMALLEST_FONT)
    return [*lines[: _MOST_LINES - 1], "".join(lines[_MOST_LINES - 1 :])], _SMALLEST_FONT


def _draw_cell(
    sheet: Canvas, cell: Cell, top: int, head: int, left: int, slot: int, size: tuple[int, int]
) -> None:
    lines, font = _title(cell, slot)
    for number, line in enumerate(lines):
        # The last line stands right above the picture.
        place = top + head - (len(lines) - number) * _LINE
        sheet.text(line, place, left, width=slot, size=font, align="centre", ink=PALE_INK)
    if cell.picture is not None:
        corner = top + head, left + (slot - size[1]) // 2
        sheet.paste(cell.picture, *corner, size)
        if cell.stamp:
            sheet.stamp(cell.stamp, *corner, *size)
