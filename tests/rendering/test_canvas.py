import pytest
import torch

from lightning_saliency.rendering.canvas import (
    INK,
    PALE_INK,
    Canvas,
    fit_cell,
    reduced,
    to_bytes,
)
from lightning_saliency.rendering.scale import ColourScale
from lightning_saliency.rendering.text import shorten, text_width


def dark(picture: torch.Tensor) -> torch.Tensor:
    return picture.amax(0) < 0.5


def test_a_new_sheet_is_white() -> None:
    sheet = Canvas(3, 5).picture()
    assert sheet.shape == (3, 3, 5)
    assert sheet.dtype == torch.float32
    assert bool((sheet == 1).all())


def test_bytes_are_rounded_and_not_cut_off() -> None:
    values = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 254.4 / 255, 254.6 / 255, 1.0])
    assert to_bytes(values).tolist() == [0, 0, 1, 254, 255, 255]
    assert to_bytes(torch.tensor([-1.0, 2.0, float("nan")])).tolist() == [0, 255, 0]


def test_a_picture_comes_back_as_it_was_pasted() -> None:
    pixels = torch.randint(0, 256, (3, 4, 6), generator=torch.Generator().manual_seed(0))
    sheet = Canvas(10, 12)
    sheet.paste(pixels.float() / 255, 2, 5)
    picture = sheet.picture()
    assert torch.equal(to_bytes(picture)[:, 2:6, 5:11], pixels.byte())
    picture[:, 2:6, 5:11] = 1
    assert bool((picture == 1).all())


def test_enlarging_repeats_pixels() -> None:
    pixels = torch.randint(
        0, 256, (3, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    sheet = Canvas(8, 12)
    sheet.paste(pixels, 0, 0, (8, 12))
    expected = pixels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(to_bytes(sheet.picture()), expected)


def test_reducing_averages_what_falls_together() -> None:
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(1, 3, 64, 64)
    small = reduced(board, (16, 16)).float() / 255
    assert small.shape == (1, 3, 16, 16)
    # A filter that passes pixels over would leave black and white.
    assert float((small - 0.5).abs().max()) < 0.1


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (192, 192)),
        ((28, 28), (196, 196)),
        ((32, 16), (192, 96)),
        ((1, 1), (192, 192)),
        ((100, 80), (200, 160)),
        ((128, 128), (256, 256)),
        ((130, 130), (130, 130)),
        ((192, 192), (192, 192)),
        ((224, 224), (224, 224)),
        ((512, 512), (256, 256)),
        ((300, 1200), (64, 256)),
        ((1, 4000), (1, 256)),
    ],
)
def test_sizes_of_cells(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit_cell(size, 192, 256) == expected


def test_text_stays_in_its_box() -> None:
    for align in ("left", "centre", "right"):
        sheet = Canvas(40, 200)
        sheet.text("a text much too long for its box", 8, 60, width=80, size=16, align=align)
        inked = dark(sheet.picture()).nonzero()
        assert len(inked) > 20
        assert int(inked[:, 1].min()) >= 60
        assert int(inked[:, 1].max()) < 140


def test_text_is_aligned() -> None:
    middles = []
    for align in ("left", "centre", "right"):
        sheet = Canvas(30, 200)
        sheet.text("abc", 5, 0, width=200, size=16, align=align)
        middles.append(float(dark(sheet.picture()).nonzero()[:, 1].float().mean()))
    assert middles[0] < 40 < 90 < middles[1] < 110 < 160 < middles[2]


def test_long_text_ends_in_an_ellipsis() -> None:
    assert shorten("short", 200, 16) == "short"
    cut = shorten("a rather long class name", 80, 16)
    assert cut.endswith("…")
    assert text_width(cut, 16) <= 80
    # One more character would not have fitted.
    assert text_width("a rather long class name"[: len(cut)] + "…", 16) > 80
    assert shorten("anything", 2, 16) == ""
    assert shorten(" two \n lines,\ta gap   of text\n", 500, 16) == "two lines, a gap   of text"


def test_a_stamp_lies_in_the_middle_of_its_box() -> None:
    sheet = Canvas(100, 140)
    sheet.bar(0, 0, 100, 140, PALE_INK)
    sheet.stamp("zero", 10, 20, 60, 100)
    plate = (sheet.picture().amin(0) > 0.95).nonzero().float()
    assert plate.mean(0).tolist() == pytest.approx([40, 70], abs=3)


@pytest.mark.parametrize("size", [16, 24, 40, 192])
def test_a_stamp_fits_into_small_boxes(size: int) -> None:
    sheet = Canvas(size + 20, size + 20)
    sheet.stamp("constant", 10, 10, size, size)
    inked = (sheet.picture().amin(0) < 1).nonzero()
    assert int(inked.min()) >= 10
    assert int(inked.max()) < size + 10


def test_a_bar_without_width_draws_nothing() -> None:
    sheet = Canvas(10, 10)
    sheet.bar(2, 2, 3, 0, INK)
    assert bool((sheet.picture() == 1).all())
    sheet.bar(2, 3, 4, 5, INK)
    assert dark(sheet.picture()).nonzero().amin(0).tolist() == [2, 3]
    assert dark(sheet.picture()).nonzero().amax(0).tolist() == [5, 7]


@pytest.mark.parametrize("signed", [False, True])
def test_a_legend_shows_the_colours_in_order(signed: bool) -> None:
    sheet = Canvas(30, 500)
    used = sheet.legend(ColourScale(), signed, 4, 10, 15, 100)
    picture = sheet.picture()
    assert 100 < used < 490
    assert bool((picture[:, :, 10 + used :] == 1).all())
    # Seen along the middle of the bar: dark to bright, or blue to red.
    row = picture[:, 14]
    coloured = (row.amax(0) - row.amin(0) > 0.2).nonzero().flatten()
    first, last = row[:, coloured[0]], row[:, coloured[-1]]
    assert (first[2] > first[0]) == (last[0] > last[2])
