"""The history of all samples: in one picture, samples down and epochs across, and as a film.

TensorBoard keeps ten images of a tag by default. A filmstrip is logged again with every
explanation, so its last image holds the whole history.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.canvas import PALE_INK, Canvas, text_width
from lightning_saliency.rendering.colors import ColorScale
from lightning_saliency.rendering.heatmap import Heatmap
from lightning_saliency.rendering.pixels import fit_cell, resized, to_pillow

_CELL = 64
_BAR = 4
_MOST_PIXELS = 330_000
_GAP, _MARGIN = 3, 8
_FONT, _LINE = 13, 18
_LEGEND = 100
_WIDEST_LABEL = 120
_NOTES = (
    "bars: mean of the map, log scale; half = first maps, full = 1000 times that",
    "bars: mean of the map, log scale; half = first maps",
    "bars: strength, half = first maps",
    "bars: strength",
)


def select_frames(count: int, most: int = 16) -> list[int]:
    """Choose which of ``count`` explanations a filmstrip shows.

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


@dataclass(frozen=True)
class Frame:
    """What a filmstrip keeps of one explanation; 12 KiB for each sample.

    Plain values: save ``dataclasses.asdict(frame)``, and restore it with ``Frame(**saved)``.

    Attributes:
        pictures: (N, 3, h, w), uint8, on the CPU; the longer side is at most 64 pixels.
        fault: for each sample why its map shows nothing, or ``""``; see
            :class:`~lightning_saliency.rendering.heatmap.Heatmap`.
        relative_strength: each map's strength divided by that of the strongest first map, or NaN.
    """

    pictures: Tensor
    fault: tuple[str, ...]
    relative_strength: tuple[float, ...]


def film_frame(overlaid: Tensor, heat: Heatmap, side: int = _CELL) -> Frame:
    """Reduce one explanation to what a filmstrip keeps of it.

    Args:
        overlaid: (N, 3, H, W), in [0, 1]: the maps laid over the images, or the maps alone.
        heat: the N colored maps.
        side: greatest length of the longer side of a picture, in pixels.

    Returns:
        Small pictures, and the words to write on them.

    Raises:
        InputError: the shape or the number of samples does not fit.
    """
    if overlaid.dim() != 4 or overlaid.shape[1] != 3 or len(overlaid) != len(heat):
        raise InputError(
            f"Expected pictures of shape ({len(heat)}, 3, H, W), one for each map, got "
            f"{tuple(overlaid.shape)}."
        )
    size = fit_cell((overlaid.shape[2], overlaid.shape[3]), side, side)
    return Frame(resized(overlaid, size), heat.fault, heat.relative_strength)


def filmstrip(
    frames: Sequence[Frame],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    images: Tensor | None = None,
    title: str = "",
    legend: tuple[ColorScale, bool] | None = None,
) -> Tensor:
    """Draw the history: one row for each sample, one column for each frame.

    Under each picture a bar shows the strength of its map relative to the strongest of the run's
    first maps, on a log scale: no bar at 1/1000, half the width at 1, the whole width at 1000.

    Pictures have at most 64 pixels on a side, and fewer if there are many: together they have at
    most 330 000 pixels, which stay below one megabyte as a PNG for any content.

    Args:
        frames: from :func:`film_frame`, all of one shape, oldest first; choose them with
            :func:`select_frames` if there are many.
        row_labels: N texts, such as the classes; truncated after 120 pixels.
        column_labels: for each frame a text, such as the epoch.
        images: (N, 3, H, W), in [0, 1]: the inputs, shown in a first column; None for none.
        title: what the strip shows, for instance ``"grad_cam, by epoch"``.
        legend: the color scale and whether the colors have a sign, for the line below; None for
            none.

    Returns:
        (3, height, width), RGB, uint8, on the CPU.

    Raises:
        InputError: there is no frame, the shapes differ, or labels are missing.
    """
    _check_strip(frames, row_labels, column_labels, images)
    rows, _, high, wide = frames[0].pictures.shape
    shown = len(frames) + (images is not None)
    cell = _cell_size((high, wide), rows * shown)
    side = min(_WIDEST_LABEL, max(text_width(label, _FONT) for label in row_labels)) + _MARGIN
    left = _MARGIN + side
    top = _MARGIN + (_LINE if title else 0) + _LINE
    pitch = cell[0] + _BAR + 2 * _GAP, cell[1] + _GAP
    foot = top + rows * pitch[0]
    width = left + shown * pitch[1] + _MARGIN
    sheet = Canvas(foot + (_LINE if legend else 0) + _MARGIN, width)
    sheet.text(title, _MARGIN, left, width=width - left - _MARGIN, size=_FONT)
    for row, label in enumerate(row_labels):
        middle = top + row * pitch[0] + (cell[0] - _LINE) // 2
        sheet.text(label, middle, _MARGIN, width=side - _MARGIN, size=_FONT, align="right")
    columns = [
        (label, frame.pictures, frame.fault, frame.relative_strength)
        for label, frame in zip(column_labels, frames, strict=True)
    ]
    if images is not None:
        columns.insert(0, ("input", images, ("",) * rows, (math.nan,) * rows))
    for label, pictures, faults, ratios in columns:
        sheet.text(
            label, top - _LINE, left, width=cell[1], size=_FONT, align="center", ink=PALE_INK
        )
        sheet.paste_column(pictures, top, left, cell, pitch[0])
        for row, (fault, ratio) in enumerate(zip(faults, ratios, strict=True)):
            corner = top + row * pitch[0], left
            if fault:
                sheet.stamp(fault, *corner, *cell)
            sheet.bar(corner[0] + cell[0] + 1, left, _BAR, _bar_length(ratio, cell[1]), PALE_INK)
        left += pitch[1]
    if legend:
        _draw_footer(sheet, legend, foot, _MARGIN + side, width - 2 * _MARGIN - side)
    return sheet.picture()


def _cell_size(size: tuple[int, int], count: int) -> tuple[int, int]:
    fraction = min(1.0, math.sqrt(_MOST_PIXELS / (count * size[0] * size[1])))
    return max(1, int(size[0] * fraction)), max(1, int(size[1] * fraction))


def _bar_length(ratio: float, width: int) -> int:
    if not ratio > 0:
        return 0
    return round(width * min(1.0, max(0.0, 0.5 + math.log10(ratio) / 6)))


def _draw_footer(
    sheet: Canvas, legend: tuple[ColorScale, bool], top: int, left: int, width: int
) -> None:
    used = sheet.legend(*legend, top, left, _FONT, _LEGEND) + 2 * _FONT
    free = max(0, width - used)
    # The longest that fits: a strip of few epochs is narrow.
    note = next((note for note in _NOTES if text_width(note, _FONT) <= free), "")
    sheet.text(note, top, left + used, width=free, size=_FONT, ink=PALE_INK)


def _check_strip(
    frames: Sequence[Frame],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    images: Tensor | None,
) -> None:
    shapes = {tuple(frame.pictures.shape) for frame in frames}
    shape = next(iter(shapes), ())
    if len(shapes) != 1 or len(shape) != 4 or shape[1] != 3 or 0 in shape:
        raise InputError(
            "Expected at least one frame, all of one shape (N, 3, h, w), got "
            + (", ".join(map(str, sorted(shapes))) or "none")
            + "."
        )
    if images is not None and (images.dim() != 4 or tuple(images.shape[:2]) != shape[:2]):
        raise InputError(
            f"Expected images of shape ({shape[0]}, 3, H, W), got {tuple(images.shape)}."
        )
    if len(row_labels) != shape[0] or len(column_labels) != len(frames):
        raise InputError(
            f"Expected {shape[0]} row labels and {len(frames)} column labels, got "
            f"{len(row_labels)} and {len(column_labels)}."
        )


_FILM_CELL = 128
_FILM_GAP, _FILM_MARGIN = 4, 8
_FILM_FONT, _FILM_LINE = 14, 20
_MILLISECONDS, _LAST_MILLISECONDS = 500, 2000


def timelapse(frames: Sequence[Frame], labels: Sequence[str], title: str = "") -> bytes:
    """Draw an animated GIF: one frame for each explanation, in it all samples side by side.

    Args:
        frames: from :func:`~lightning_saliency.rendering.film_frame`, all of one shape, oldest
            first.
        labels: for each frame a text, such as the epoch.
        title: written before the label.

    Returns:
        The file. Each frame is shown for half a second, the last one for two; it starts again.

    Raises:
        InputError: there is no frame, or labels are missing.
    """
    if not frames or len(labels) != len(frames):
        raise InputError(
            f"Expected at least one frame and a label for each, got {len(frames)} frames and "
            f"{len(labels)} labels."
        )
    pictures = [
        _draw_film_frame(frame, f"{title} {label}".strip())
        for frame, label in zip(frames, labels, strict=True)
    ]
    # One palette for all frames, so that a color means the same in each.
    palette = _sampled(pictures).quantize(256, Image.Quantize.FASTOCTREE)
    coded = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    file = BytesIO()
    coded[0].save(
        file,
        "GIF",
        save_all=True,
        append_images=coded[1:],
        duration=[_MILLISECONDS] * (len(coded) - 1) + [_LAST_MILLISECONDS],
        loop=0,
    )
    return file.getvalue()


def _draw_film_frame(frame: Frame, title: str) -> Image.Image:
    count, _, high, wide = frame.pictures.shape
    cell = fit_cell((high, wide), _FILM_CELL, _FILM_CELL)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    width = 2 * _FILM_MARGIN + columns * (cell[1] + _FILM_GAP)
    sheet = Canvas(2 * _FILM_MARGIN + _FILM_LINE + rows * (cell[0] + _FILM_GAP), width)
    sheet.text(title, _FILM_MARGIN, _FILM_MARGIN, width=width - 2 * _FILM_MARGIN, size=_FILM_FONT)
    for index in range(count):
        top = _FILM_MARGIN + _FILM_LINE + (index // columns) * (cell[0] + _FILM_GAP)
        left = _FILM_MARGIN + (index % columns) * (cell[1] + _FILM_GAP)
        sheet.paste(frame.pictures[index], top, left, cell)
        if frame.fault[index]:
            sheet.stamp(frame.fault[index], top, left, *cell)
    return to_pillow(sheet.picture())


def _sampled(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return the pictures in one, every second pixel of each: small ones are enlarged anyway."""
    width, height = (math.ceil(side / 2) for side in pictures[0].size)
    sheet = Image.new("RGB", (width, height * len(pictures)))
    for index, picture in enumerate(pictures):
        small = picture.resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(small, (0, index * height))
    return sheet
