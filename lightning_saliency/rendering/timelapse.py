"""The history of all samples as a short animation."""

import math
from collections.abc import Sequence
from io import BytesIO

from PIL import Image

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.canvas import Canvas
from lightning_saliency.rendering.filmstrip import Frame
from lightning_saliency.rendering.pixels import fit_cell, to_pillow

_CELL = 128
_GAP, _MARGIN = 4, 8
_FONT, _LINE = 14, 20
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
        _draw(frame, f"{title} {label}".strip())
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


def _draw(frame: Frame, title: str) -> Image.Image:
    count, _, high, wide = frame.pictures.shape
    cell = fit_cell((high, wide), _CELL, _CELL)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    width = 2 * _MARGIN + columns * (cell[1] + _GAP)
    sheet = Canvas(2 * _MARGIN + _LINE + rows * (cell[0] + _GAP), width)
    sheet.text(title, _MARGIN, _MARGIN, width=width - 2 * _MARGIN, size=_FONT)
    for index in range(count):
        top = _MARGIN + _LINE + (index // columns) * (cell[0] + _GAP)
        left = _MARGIN + (index % columns) * (cell[1] + _GAP)
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
