"""The history of all samples in one picture: samples down, explained epochs across.

TensorBoard keeps ten images of a tag by default, and halves the width of each. A filmstrip is drawn
again with every explanation, so its last image holds the whole history; its epochs and class names
stay legible at half the size.

Each kind of news has a color of its own: warm is the map, blue the prediction, black the movement,
crimson an alarm.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.canvas import INK, PALE_INK, PAPER, Canvas, text_width
from lightning_saliency.rendering.colors import ColorScale
from lightning_saliency.rendering.pixels import fit_cell, resized, to_bytes

BLUE, CRIMSON, TINT = (0, 114, 178), (190, 0, 50), (250, 225, 230)
"""The colors of predictions and of alarms."""

_WIDTH, _MARGIN = 700, 8
_MOST_CELL, _LEAST_CELL = 64, 24
# Between two pictures: the frames of both, and some white.
_BETWEEN = 12
_FRAME = 4
_BAR = 6
_WIDEST_LABEL = 88
_TITLE, _EPOCH, _CLASS, _SMALL = 18, 20, 16, 13
_HEAD = 28
_CHART, _CHART_GAP = 70, 14
_LEGEND = 150
_PALE_BAR = (217, 217, 217)
_CORNER = 16
_DASH = 5
# Thinner ones have holes where TensorBoard leaves out every second pixel.
_LINE = 3
# Of each color; files that do not keep an image's finest noise are a third smaller.
_STEPS = 40


def select_frames(count: int, most: int = 16) -> list[int]:
    """Choose which of ``count`` explanations are kept.

    They are evenly spaced: every first, second, fourth, eighth ... one, and the last. The spacing
    doubles when there are too many, and dropped frames never return. So columns keep their place
    from one epoch to the next, and dropped frames need not be kept.

    Args:
        count: number of explanations so far, >= 0.
        most: greatest number of columns, >= 2.

    Returns:
        Ascending indices; always the first (0) and the last (``count - 1``), at most ``most``.

    Raises:
        InputError: one of them is too small.

    Example:
        >>> select_frames(5, most=8)
        [0, 1, 2, 3, 4]
        >>> select_frames(20, most=8)
        [0, 4, 8, 12, 16, 19]
    """
    if count < 0 or most < 2:
        raise InputError(f"Expected count >= 0 and most >= 2, got {count} and {most}.")
    if count == 0:
        return []
    step = 1
    while len(chosen := [*range(0, count - 1, step), count - 1]) > most:
        step *= 2
    return chosen


def select_columns(kept: Collection[int], pinned: Collection[int] = (), most: int = 8) -> list[int]:
    """Choose which of the kept explanations are columns of a filmstrip.

    The first, the last and the pinned ones, the newest first; then again and again the one nearest
    the middle of the widest gap.

    Args:
        kept: their numbers.
        pinned: the numbers of those that should be shown.
        most: greatest number of columns, >= 2.

    Returns:
        Ascending numbers, at most ``most``.

    Example:
        >>> select_columns(range(20), pinned=[12, 13], most=6)
        [0, 3, 6, 12, 13, 19]
    """
    numbers = sorted(kept)
    if len(numbers) <= most:
        return numbers
    chosen = {numbers[0], numbers[-1]}
    for number in sorted(set(pinned) & set(numbers), reverse=True):
        if len(chosen) < most:
            chosen.add(number)
    while len(chosen) < most:
        chosen.add(_in_the_widest_gap(numbers, sorted(chosen)))
    return sorted(chosen)


def _in_the_widest_gap(numbers: Sequence[int], chosen: Sequence[int]) -> int:
    gaps = sorted(
        ((end - start, -start, end) for start, end in pairwise(chosen)),
        reverse=True,
    )
    for _, start, end in gaps:
        inside = [number for number in numbers if -start < number < end]
        if inside:
            middle = (end - start) / 2
            return min(inside, key=lambda number: abs(number - middle))
    raise AssertionError("there are more numbers than were chosen")


@dataclass(frozen=True)
class Column:
    """What a filmstrip shows of one explanation of N samples.

    Attributes:
        label: written above it, such as the epoch.
        pictures: (N, 3, h, w), in [0, 1] or uint8: the maps laid over the images.
        fault: for each sample why its map shows nothing, or ``""``; see
            :class:`~lightning_saliency.rendering.heatmap.Heatmap`.
        moved: for each sample how far its map has moved since the column before, in [0, 1]; NaN
            where that is not known.
        wrong: for each sample whether another class is predicted than is right.
        flipped: for each sample whether another class is predicted than in the column before.
        alarm: whether an alarm sounded.
    """

    label: str
    pictures: Tensor
    fault: Sequence[str]
    moved: Sequence[float]
    wrong: Sequence[bool]
    flipped: Sequence[bool]
    alarm: bool = False


@dataclass(frozen=True)
class Curves:
    """What is drawn beneath the columns, over all explanations.

    Attributes:
        places: for each explanation where it lies, in columns: 0 is the first, 1.5 between the
            second and the third.
        moved: for each the mean movement since the one before, in [0, 1], or NaN.
        loss: for each the loss, or NaN.
        loss_name: what it is called.
    """

    places: Sequence[float] = ()
    moved: Sequence[float] = ()
    loss: Sequence[float] = ()
    loss_name: str = "val loss"


@dataclass(frozen=True)
class _Layout:
    """Where things are, in pixels.

    Attributes:
        cell: (height, width) of a picture.
        left: of the first column, the input.
        top: of the first row.
        rows: how many there are.
        columns: how many there are, without the input.
    """

    cell: tuple[int, int]
    left: int
    top: int
    rows: int
    columns: int
    pitch: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        pitch = self.cell[0] + 2 * _FRAME + 2 + _BAR + 6, self.cell[1] + _BETWEEN
        object.__setattr__(self, "pitch", pitch)

    def x(self, column: float) -> int:
        """The left side of a column; 0 is the first after the input."""
        return self.left + round((column + 1) * self.pitch[1])

    def center(self, column: float) -> float:
        return self.x(column) + self.cell[1] / 2

    def y(self, row: int) -> int:
        return self.top + row * self.pitch[0]

    @property
    def foot(self) -> int:
        return self.y(self.rows)


def filmstrip(
    images: Tensor,
    columns: Sequence[Column],
    classes: Sequence[str],
    numbers: Sequence[int],
    title: str = "",
    note: str = "",
    curves: Curves | None = None,
    legend: tuple[ColorScale, bool] | None = None,
) -> Tensor:
    """Draw the history: one row for each sample, one column for each explanation.

    A blue frame is a wrong prediction, a blue corner one that has changed since the column before.
    The bar under a picture is how far its map has moved since then. The column of an alarm has a
    crimson head.

    Args:
        images: (N, 3, H, W), in [0, 1] or uint8: the inputs.
        columns: oldest first, at least one; eight fit well.
        classes: N names, written beside the rows.
        numbers: N numbers of the samples.
        title: what the strip shows, for instance ``"grad_cam"``.
        note: written beside it.
        curves: what is drawn beneath; None for nothing.
        legend: the color scale and whether the colors have a sign; None for none.

    Returns:
        (3, height, 700), RGB, uint8, on the CPU.

    Raises:
        InputError: there is no column, or the numbers of samples differ.
    """
    _check(images, columns, classes, numbers)
    label = min(_WIDEST_LABEL, max(text_width(name, _CLASS, bold=True) for name in classes))
    label = max(label, text_width("val loss", _CLASS, bold=True))
    left = _MARGIN + label + _MARGIN + _FRAME
    room = (_WIDTH - left - _MARGIN) // (len(columns) + 1) - _BETWEEN
    side = max(_LEAST_CELL, min(_MOST_CELL, room))
    cell = _cell((images.shape[2], images.shape[3]), side)
    top = _MARGIN + _TITLE + 8 + _HEAD + _FRAME + 2
    images = _coarse(images, cell)
    layout = _Layout(cell, left, top, len(images), len(columns))
    chart = _CHART + 2 * _CHART_GAP if curves is not None else 0
    high = layout.foot + chart + 3 * _SMALL + 10 + _MARGIN
    sheet = Canvas(high, max(_WIDTH, layout.x(len(columns)) + _MARGIN))
    _draw_head(sheet, layout, columns, title, note, layout.foot + chart)
    _draw_rows(sheet, layout, images, classes, numbers)
    for place, column in enumerate(columns):
        _draw_column(sheet, layout, place, column)
    if curves is not None:
        _draw_curves(sheet, layout, curves)
    _draw_legend(sheet, layout.foot + chart + 6, legend)
    return sheet.picture()


def _coarse(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Return pictures in the size in which they are shown, with as many colors as are seen."""
    return to_bytes(resized(pictures, size).float() / 255, _STEPS)


def _cell(size: tuple[int, int], side: int) -> tuple[int, int]:
    high, wide = fit_cell(size, side, side)
    # Small images that no integer factor enlarges to this side; pixels may be uneven.
    factor = side / max(high, wide)
    return max(1, round(high * factor)), max(1, round(wide * factor))


def _draw_head(
    sheet: Canvas, layout: _Layout, columns: Sequence[Column], title: str, note: str, end: int
) -> None:
    wide = min(_WIDTH // 2, text_width(title, _TITLE, bold=True))
    sheet.text(title, _MARGIN, _MARGIN, width=wide, size=_TITLE, bold=True)
    start = _MARGIN + wide + 10
    sheet.text(note, _MARGIN + 4, start, width=_WIDTH - start, size=_SMALL + 1, ink=PALE_INK)
    top = layout.top - _HEAD - _FRAME - 2
    labels = layout.left - 2 * _MARGIN - _FRAME
    below = top + 5
    sheet.text("epoch", below, _MARGIN, width=labels, size=_CLASS, align="right", ink=PALE_INK)
    wide = layout.pitch[1]
    sheet.text(
        "input", below, layout.x(-1) - _BETWEEN // 2, width=wide, size=_CLASS, align="center",
        ink=PALE_INK,
    )  # fmt: skip
    for place, column in enumerate(columns):
        left = layout.x(place) - _BETWEEN // 2
        ink, words = INK, column.label
        if column.alarm:
            sheet.bar(layout.top - _FRAME - 2, left, end - layout.top + _FRAME, wide, TINT)
            sheet.bar(top, left, _HEAD, wide, CRIMSON)
            ink, words = PAPER, f"\N{BLACK UP-POINTING TRIANGLE} {column.label}"
        sheet.text(
            words, top + 1, left, width=wide, size=_EPOCH, align="center", ink=ink, bold=True
        )


def _draw_rows(
    sheet: Canvas,
    layout: _Layout,
    images: Tensor,
    classes: Sequence[str],
    numbers: Sequence[int],
) -> None:
    wide = layout.left - 2 * _MARGIN - _FRAME
    for row, (name, number) in enumerate(zip(classes, numbers, strict=True)):
        top = layout.y(row) + layout.cell[0] // 2 - 18
        sheet.text(
            f"sample {number}", top, _MARGIN, width=wide, size=_SMALL, align="right", ink=PALE_INK
        )
        sheet.text(name, top + 16, _MARGIN, width=wide, size=_CLASS, align="right", bold=True)
        sheet.paste(images[row], layout.y(row), layout.x(-1), layout.cell)


def _draw_column(sheet: Canvas, layout: _Layout, place: int, column: Column) -> None:
    high, wide = layout.cell
    left = layout.x(place)
    pictures = _coarse(column.pictures, layout.cell)
    for row, fault in enumerate(column.fault):
        top = layout.y(row)
        sheet.paste(pictures[row], top, left, layout.cell)
        if fault:
            sheet.stamp(fault, top, left, high, wide)
        if column.wrong[row]:
            sheet.frame(top, left, layout.cell, BLUE)
        if column.flipped[row]:
            right = left + wide + _FRAME
            tip = top - _FRAME
            points = [(tip, right - _CORNER), (tip, right), (tip + _CORNER, right)]
            sheet.polygon(points, BLUE, edge=True)
        moved = column.moved[row]
        if math.isfinite(moved):
            below = top + high + _FRAME + 2
            sheet.bar(below, left, _BAR, wide, _PALE_BAR)
            sheet.bar(below, left, _BAR, round(wide * min(1.0, max(0.0, moved))), INK)


def _draw_curves(sheet: Canvas, layout: _Layout, curves: Curves) -> None:
    top = layout.foot + _CHART_GAP
    end = layout.x(layout.columns - 1) + layout.cell[1]
    for line in (top, top + _CHART):
        sheet.bar(line, layout.x(0), 1, end - layout.x(0), _PALE_BAR)
    wide = layout.left - 2 * _MARGIN - _FRAME
    range_left, range_wide = layout.x(-1) - _FRAME, layout.pitch[1]
    sheet.text("moved", top, _MARGIN, width=wide, size=_CLASS, align="right", bold=True)
    sheet.text("0 to 1", top + 3, range_left, width=range_wide, size=_SMALL)
    known = [value for value in curves.loss if math.isfinite(value)]
    if known:
        low, high = min(known), max(known)
        span = high - low or 1.0
        below = top + _CHART - 24
        sheet.text(
            curves.loss_name, below, _MARGIN, width=wide, size=_CLASS, align="right", ink=BLUE,
            bold=True,
        )  # fmt: skip
        words, size = _range(low, high, range_wide)
        sheet.text(words, below + 3, range_left, width=range_wide, size=size, ink=BLUE)
        scaled = [(value - low) / span for value in curves.loss]
        for piece in _pieces(layout, top, curves.places, scaled):
            sheet.line(piece, BLUE, _LINE, _DASH)
    for piece in _pieces(layout, top, curves.places, curves.moved):
        sheet.line(piece, INK, _LINE)
        for y, x in piece:
            sheet.dot(y, x, 3, INK)


def _range(low: float, high: float, width: int) -> tuple[str, int]:
    """Return a range in words that fit, and the size of their letters."""
    ends = [
        f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e+")
        for value in ([low, high] if high > low else [low])
    ]
    words = " to ".join(ends)
    if text_width(words, _SMALL) > width and low >= 0:
        words = "\N{EN DASH}".join(ends)
    return words, _SMALL if text_width(words, _SMALL) <= width else _SMALL - 3


def _pieces(
    layout: _Layout, top: int, places: Sequence[float], values: Sequence[float]
) -> list[list[tuple[float, float]]]:
    """Return the points (top, left) of a curve, without those that are not known."""
    piece = [
        (top + _CHART * (1 - min(1.0, max(0.0, value))), layout.center(place))
        for place, value in zip(places, values, strict=True)
        if math.isfinite(value)
    ]
    return [piece] if piece else []


def _draw_legend(sheet: Canvas, top: int, legend: tuple[ColorScale, bool] | None) -> None:
    used = 0
    if legend is not None:
        used = sheet.legend(*legend, top, _MARGIN, _SMALL, _LEGEND) + 20
    left = _MARGIN + used
    sheet.frame(top + 3, left + 4, (9, 9), BLUE, 2)
    left = _word(sheet, "wrong", top, left + 20)
    corner = [(top, left), (top, left + 13), (top + 13, left + 13)]
    sheet.polygon(corner, BLUE)
    left = _word(sheet, "flipped", top, left + 18)
    sheet.polygon([(top + 13, left), (top + 13, left + 13), (top + 1, left + 6)], CRIMSON)
    _word(sheet, "alarm", top, left + 18)
    below = top + _SMALL + 1
    start = _MARGIN + used
    sheet.bar(below + 6, start, _BAR, 40, _PALE_BAR)
    sheet.bar(below + 6, start, _BAR, 22, INK)
    _word(sheet, "moved since the last column", below, start + 46)


def _word(sheet: Canvas, word: str, top: int, left: int) -> int:
    """Write a word of the legend, and return where the next entry starts."""
    wide = text_width(word, _SMALL)
    sheet.text(word, top, left, width=wide, size=_SMALL)
    return left + wide + 14


def _check(
    images: Tensor, columns: Sequence[Column], classes: Sequence[str], numbers: Sequence[int]
) -> None:
    count = len(images)
    each = [(c.pictures, c.fault, c.moved, c.wrong, c.flipped) for c in columns]
    if not columns or count == 0 or images.dim() != 4 or images.shape[1] != 3:
        raise InputError(
            f"Expected at least one column and images (N, 3, H, W), got {len(columns)} columns and "
            f"images of shape {tuple(images.shape)}."
        )
    if any(len(part) != count for parts in [*each, (classes, numbers)] for part in parts):
        raise InputError(f"Expected all of {count} samples in each column, and a label for each.")
