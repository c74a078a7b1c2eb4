"""PNG files, read by Pillow."""

import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from lightning_saliency.loggers.pixels import png_file


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def picture(kind: str) -> np.ndarray:
    enlarged = noise(16, 20).repeat(3, 0).repeat(3, 1)
    waves = np.sin(np.arange(90)[:, None] / 9 + np.arange(300) / 30).reshape(90, 100, 3)
    smooth = (128 + 90 * waves + 3 * noise(90, 100) / 255).astype(np.uint8)
    return {
        "noise": noise(30, 50),
        "enlarged": enlarged,
        "smooth": smooth,
        "one pixel": noise(1, 1),
        "one row": noise(1, 300),
        "one column": noise(300, 1),
        "not contiguous": noise(50, 30).transpose(1, 0, 2),
    }[kind]


KINDS = ["noise", "enlarged", "smooth", "one pixel", "one row", "one column", "not contiguous"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_gets_every_pixel_back(kind: str) -> None:
    pixels = picture(kind)
    file = png_file(pixels)
    Image.open(BytesIO(file)).verify()
    image = Image.open(BytesIO(file))
    assert (image.format, image.mode) == ("PNG", "RGB")
    assert np.array_equal(np.array(image), pixels)


@pytest.mark.parametrize("kind", ["enlarged", "smooth"])
def test_a_file_is_about_as_small_as_pillows(kind: str) -> None:
    pixels = picture(kind)
    theirs = BytesIO()
    Image.fromarray(pixels).save(theirs, "PNG", compress_level=1)
    assert len(png_file(pixels)) < 1.1 * len(theirs.getvalue())


def test_a_new_row_of_an_enlarged_picture_stands_there_as_it_is() -> None:
    data = png_file(picture("enlarged")).split(b"IDAT")[1]
    lines = np.frombuffer(zlib.decompressobj().decompress(data), np.uint8).reshape(48, 181)
    assert lines[:, 0].tolist() == [0, 2, 2] * 16
    assert np.array_equal(lines[::3, 1:4], noise(16, 20)[:, 0])


def test_a_palette_has_at_most_256_colors_and_is_smaller() -> None:
    pixels = picture("noise")
    file = png_file(pixels, palette=True)
    image = Image.open(BytesIO(file))
    assert image.mode == "P"
    assert image.size == (50, 30)
    assert len(file) < len(png_file(pixels))
