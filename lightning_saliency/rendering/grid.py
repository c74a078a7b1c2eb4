"""Pictures side by side under their titles, with text below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.canvas import PALE_INK, Canvas
from lightning_saliency.rendering.pixels import fit_cell
from lightning_saliency.rendering.scale import ColorScale
from lightning_saliency.rendering.text import wrap

__all__ = ["Cell", "grid"]

_LEAST, _MOST = 128, 256
_GAP, _MARGIN = 6, 10
_MOST_LINES = 2


@dataclass(frozen=True)
class _Type:
    """The sizes of text, in pixels; the defaults are for slots of 128 pixels.

    Attributes:
        font: of captions, and of titles if they fit.
        line: from one line to the next.
        small: font of the last line.
        smallest: font of long titles.
        legend: width of a color bar.
    """

    font: int = 14
    line: int = 20
    small: int = 12
    smallest: int = 11
    legend: int = 56

    @classmethod
    def for_slot(cls, slot: int) -> _Type:
        """Return sizes in proportion to the pictures: TensorBoard shows all panels in one width."""
        return cls(*(round(size * max(1.0, slot / _LEAST)) for size in astuple(cls())))


@dataclass(frozen=True)
class Cell:
    """One picture of a grid.

    Attributes:
        picture: (3, H, W), in [0, 1]; None leaves the slot empty.
        title: written above it.
        stamp: a word written across it, or ``""``.
    """

    picture: Tensor | None = None
    title: str = ""
    stamp: str = ""


def grid(
    rows: Sequence[Sequence[Cell]],
    caption: Sequence[str] = (),
    legends: Sequence[tuple[ColorScale, bool]] = (),
    remark: str = "",
) -> Tensor:
    """Draw rows of pictures.

    All have the size of the first one, which is enlarged by an integer factor until its longer side
    is at least 128 pixels, or reduced to 256. Text grows with the pictures.

    Args:
        rows: the cells, top to bottom and left to right; rows may be of unequal length. A row
            without titles takes no space for them.
        caption: lines of text below.
        legends: color scales for the last line, each with whether its colors have a sign.
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
    written = _Type.for_slot(slot)
    heads = [written.line * max(len(_title(c, slot, written)[0]) for c in row) for row in rows]
    foot = _MARGIN + sum(heads) + len(rows) * (size[0] + _GAP)
    last = bool(legends or remark)
    width = 2 * _MARGIN + max(map(len, rows)) * (slot + _GAP) - _GAP
    sheet = Canvas(foot + (len(caption) + last) * written.line + _MARGIN, width)
    top = _MARGIN
    for row, head in zip(rows, heads, strict=True):
        for place, cell in enumerate(row):
            left = _MARGIN + place * (slot + _GAP)
            _draw_cell(sheet, cell, top, head, left, slot, size, written)
        top += head + size[0] + _GAP
    for line in caption:
        sheet.text(line, top, _MARGIN, width=width - 2 * _MARGIN, size=written.font)
        top += written.line
    left = _MARGIN
    for scale, signed in legends:
        used = sheet.legend(scale, signed, top, left, written.small, written.legend)
        left += used + 2 * written.small
    left -= written.small if legends else 0
    free = max(0, width - _MARGIN - left)
    sheet.text(remark, top, left, width=free, size=written.small, align="right")
    return sheet.picture()


def _title(cell: Cell, width: int, written: _Type) -> tuple[list[str], int]:
    """Return the lines of a title, one or two, and the largest font in which they fit."""
    for size in range(written.font, written.smallest, -1):
        lines = wrap(cell.title, width, size)
        if len(lines) <= _MOST_LINES:
            return lines, size
    lines = wrap(cell.title, width, written.smallest)
    return [*lines[: _MOST_LINES - 1], "".join(lines[_MOST_LINES - 1 :])], written.smallest


def _draw_cell(
    sheet: Canvas,
    cell: Cell,
    top: int,
    head: int,
    left: int,
    slot: int,
    size: tuple[int, int],
    written: _Type,
) -> None:
    lines, font = _title(cell, slot, written)
    for number, line in enumerate(lines):
        # The last line is right above the picture.
        place = top + head - (len(lines) - number) * written.line
        sheet.text(line, place, left, width=slot, size=font, align="center", ink=PALE_INK)
    if cell.picture is not None:
        corner = top + head, left + (slot - size[1]) // 2
        sheet.paste(cell.picture, *corner, size)
        if cell.stamp:
            sheet.stamp(cell.stamp, *corner, *size)
