"""The history of all samples as a film."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.canvas import Canvas
from lightning_saliency.rendering.heatmap import Heatmap
from lightning_saliency.rendering.pixels import fit_cell, resized, to_pillow

_CELL = 64


@dataclass(frozen=True)
class Frame:
    """What a film shows of one explanation.

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
    """Reduce one explanation to what a film shows of it.

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
