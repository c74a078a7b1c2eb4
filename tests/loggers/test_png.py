from io import BytesIO

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from lightning_saliency.loggers.png import png_file

Pixels = npt.NDArray[np.uint8]


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(size: int) -> Pixels:
    """Return what a photograph is to an encoder: slow changes and a little noise."""
    place = np.linspace(0, 3, size)
    waves = np.sin(place)[:, None] * np.cos(2 * place) * 100 + 128
    picture = np.stack([waves, waves.T, 255 - waves], axis=2)
    return (picture + np.random.default_rng(0).normal(0, 1, picture.shape)).astype(np.uint8)


def enlarged(small: Pixels, factor: int = 2) -> Pixels:
    return small.repeat(factor, 0).repeat(factor, 1)


def size_by_pillow(pixels: Pixels) -> int:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return len(file.getvalue())


@pytest.mark.parametrize(
    "pixels",
    [
        noise(1, 1),
        noise(1, 9),
        noise(9, 1),
        noise(20, 30),
        smooth(40),
        enlarged(noise(10, 15)),
        enlarged(smooth(16), 3),
        np.vstack([np.zeros((5, 8, 3), np.uint8), noise(4, 8), np.full((9, 8, 3), 255, np.uint8)]),
        np.zeros((7, 3, 3), np.uint8),
        noise(20, 30)[::2, ::3],
    ],
)
def test_another_decoder_finds_the_same_pixels(pixels: Pixels) -> None:
    file = png_file(pixels)
    shown = Image.open(BytesIO(file))
    shown.verify()
    shown = Image.open(BytesIO(file))
    assert (shown.format, shown.mode, shown.info) == ("PNG", "RGB", {})
    assert np.array_equal(np.asarray(shown), pixels)


def test_repeated_rows_cost_next_to_nothing() -> None:
    once = len(png_file(noise(64, 64)))
    twice = len(png_file(noise(64, 64).repeat(2, 0)))
    assert twice < 1.05 * once


def test_files_are_about_as_large_as_those_of_a_general_encoder() -> None:
    small = enlarged(noise(64, 64) // 4)
    assert len(png_file(small)) < 1.02 * size_by_pillow(small)
    photograph = smooth(224)
    assert len(png_file(photograph)) < 1.15 * size_by_pillow(photograph)


def test_enlarged_maps_are_stored_by_their_colours() -> None:
    colours = noise(1, 100)[0]
    few = enlarged(colours[np.random.default_rng(1).integers(0, 100, (64, 64))])
    assert len(png_file(few)) < 0.8 * size_by_pillow(few)
