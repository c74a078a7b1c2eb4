"""What moved: a few samples, each with its image, its map before and its map now."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.canvas import INK, PALE_INK, Canvas
from lightning_saliency.rendering.filmstrip import BLUE
from lightning_saliency.rendering.pixels import fit_cell

_SIDE, _GAP, _MARGIN = 150, 10, 10
_TITLE, _HEAD, _NAME, _SMALL = 20, 18, 16, 14
_BAR = 7
_PALE_BAR = (217, 217, 217)


@dataclass(frozen=True)
class MovedRow:
    """One sample of a card.

    Attributes:
        pictures: three (3, H, W), in [0, 1] or uint8: the input, the map before and the map now.
        fault: for both maps why they show nothing, or ``""``.
        outlines: for both maps the pixels that are outlined, bool, (h, w), of any size.
        label: the sample's class.
        number: the sample's number.
        predicted: for both times what is predicted.
        right: for both times whether that is right; None if it is not known.
        probability: for both times that of the explained class.
        moved: how far the map has moved, in [0, 1], or NaN.
    """

    pictures: Sequence[Tensor]
    fault: Sequence[str]
    outlines: Sequence[Tensor]
    label: str
    number: int
    predicted: Sequence[str]
    right: Sequence[bool | None]
    probability: Sequence[float]
    moved: float


def moved_card(rows: Sequence[MovedRow], before: str, now: str, title: str) -> Tensor:
    """Draw the samples, with what they were and are taken for.

    Args:
        rows: at least one.
        before: written above the maps before.
        now: written above the maps now.
        title: written above all.

    Returns:
        (3, height, 500), RGB, uint8, on the CPU.

    Raises:
        InputError: there is no row.
    """
    if not rows:
        raise InputError("Expected at least one sample that moved, got none.")
    first = rows[0].pictures[0]
    high, wide = fit_cell((first.shape[1], first.shape[2]), _SIDE, _SIDE)
    factor = _SIDE / max(high, wide)
    size = max(1, round(high * factor)), max(1, round(wide * factor))
    pitch = size[0] + _NAME + _SMALL + 12 + _BAR + 12
    top = _MARGIN + _TITLE + 8 + _HEAD + 8
    width = 2 * _MARGIN + 3 * (_SIDE + _GAP) - _GAP + 10
    sheet = Canvas(top + len(rows) * pitch + 2 * _SMALL, width)
    sheet.text(title, _MARGIN, _MARGIN, width=width - 2 * _MARGIN, size=_TITLE, bold=True)
    for place, words in enumerate(("input", before, now)):
        left = _MARGIN + place * (_SIDE + _GAP)
        sheet.text(words, top - _HEAD - 6, left, width=_SIDE, size=_HEAD, align="center", bold=True)
    for number, row in enumerate(rows):
        _draw_row(sheet, row, top + number * pitch, size, width)
    note = "outlined: brightest tenth; moved = 1 - overlap of the outlines (IoU)"
    below = top + len(rows) * pitch
    sheet.text(note, below, _MARGIN, width=width - 2 * _MARGIN, size=_SMALL - 1, ink=PALE_INK)
    return sheet.picture()


def _draw_row(sheet: Canvas, row: MovedRow, top: int, size: tuple[int, int], width: int) -> None:
    for place, picture in enumerate(row.pictures):
        left = _MARGIN + place * (_SIDE + _GAP)
        sheet.paste(picture, top, left, size)
        if place and row.fault[place - 1]:
            sheet.stamp(row.fault[place - 1], top, left, *size)
        elif place:
            sheet.outline(row.outlines[place - 1], top, left, size)
    below = top + size[0] + 4
    _write(sheet, below, 0, row.label, f"#{row.number}", None)
    for time in (0, 1):
        right = row.right[time]
        mark = {True: "\N{CHECK MARK} ", False: "\N{BALLOT X} ", None: ""}[right]
        words = f"{row.label} {row.probability[time]:.2f}"
        _write(sheet, below, time + 1, mark + row.predicted[time], words, right)
    bar = below + _NAME + _SMALL + 8
    long = width - 2 * _MARGIN
    if row.moved == row.moved:
        sheet.text(
            f"moved {row.moved:.2f}", below + _NAME + 3, _MARGIN, width=_SIDE, size=_SMALL,
            align="right", bold=True,
        )  # fmt: skip
        sheet.bar(bar, _MARGIN, _BAR, long, _PALE_BAR)
        sheet.bar(bar, _MARGIN, _BAR, round(long * min(1.0, max(0.0, row.moved))), INK)


def _write(sheet: Canvas, top: int, place: int, name: str, more: str, right: bool | None) -> None:
    left = _MARGIN + place * (_SIDE + _GAP)
    ink = BLUE if right is False else INK
    sheet.text(name, top, left, width=_SIDE, size=_NAME, ink=ink, bold=True)
    sheet.text(more, top + _NAME + 3, left, width=_SIDE, size=_SMALL, ink=PALE_INK)
