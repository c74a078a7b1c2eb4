import pytest
import torch
from PIL import ImageDraw

from lightning_saliency.rendering.canvas import INK, PALE_INK, Canvas, font, shorten, text_width
from lightning_saliency.rendering.colors import ColorScale
from lightning_saliency.rendering.pixels import from_pillow, to_pillow


def dark(picture: torch.Tensor) -> torch.Tensor:
    return picture.amax(0) < 128


def test_a_new_sheet_is_white() -> None:
    sheet = Canvas(3, 5).picture()
    assert sheet.shape == (3, 3, 5)
    assert sheet.dtype == torch.uint8
    assert bool((sheet == 255).all())


def test_a_picture_comes_back_as_it_was_pasted() -> None:
    pixels = torch.randint(0, 256, (3, 4, 6), generator=torch.Generator().manual_seed(0))
    sheet = Canvas(10, 12)
    sheet.paste(pixels.float() / 255, 2, 5)
    picture = sheet.picture()
    assert torch.equal(picture[:, 2:6, 5:11], pixels.byte())
    picture[:, 2:6, 5:11] = 255
    assert bool((picture == 255).all())


def test_enlarging_repeats_pixels() -> None:
    pixels = torch.randint(
        0, 256, (3, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    sheet = Canvas(8, 12)
    sheet.paste(pixels, 0, 0, (8, 12))
    expected = pixels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(sheet.picture(), expected)


@pytest.mark.parametrize("size", [(4, 6), (8, 12), (2, 3)])
def test_a_column_is_its_pictures_one_by_one(size: tuple[int, int]) -> None:
    pixels = torch.randint(
        0, 256, (3, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    at_once, one_by_one = Canvas(40, 20), Canvas(40, 20)
    at_once.paste_column(pixels, 2, 5, size, 11)
    for row, picture in enumerate(pixels):
        one_by_one.paste(picture, 2 + 11 * row, 5, size)
    assert torch.equal(at_once.picture(), one_by_one.picture())


def test_the_bars_of_several_legends_lie_below_each_other() -> None:
    sheet = Canvas(80, 400)
    sheet.legends([(ColorScale(), False), (ColorScale(), True)], 2, 10, 12, 110, 30)
    picture = sheet.picture().int()
    # In the rows of the bars, left of the words.
    for top in (2, 32):
        colored = (picture[:, top + 6, :140] != 255).any(0).nonzero()
        assert int(colored.max()) - int(colored.min()) == 109
        assert int(colored.min()) == 10 + text_width("-16x", 12) // 2 + 1


def test_text_stays_in_its_box() -> None:
    for align in ("left", "center", "right"):
        sheet = Canvas(40, 200)
        sheet.text("a text much too long for its box", 8, 60, width=80, size=16, align=align)
        inked = dark(sheet.picture()).nonzero()
        assert len(inked) > 20
        assert int(inked[:, 1].min()) >= 60
        assert int(inked[:, 1].max()) < 140


@pytest.mark.parametrize("line", ["epoch 12: Å (0.93)", "≤ -10x", "j", "\u200b", "W" * 40])
def test_text_is_what_pillow_draws_but_for_its_shades_also_the_second_time(line: str) -> None:
    for ink in (INK, PALE_INK, INK):
        sheet = Canvas(40, 700)
        sheet.bar(0, 30, 40, 20, (200, 100, 0))
        direct = to_pillow(sheet.picture())
        sheet.text(line, 9, 20, width=650, size=14, ink=ink)
        ImageDraw.Draw(direct).text((20, 9), line, fill=ink, font=font(14))
        assert int((sheet.picture().int() - from_pillow(direct).int()).abs().max()) <= 8
    black = Canvas(40, 700)
    black.text(line, 9, 20, width=650, size=14)
    assert len(black.picture().unique()) <= 16


def test_text_is_aligned() -> None:
    middles = []
    for align in ("left", "center", "right"):
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
    plate = (sheet.picture().amin(0) > 242).nonzero().float()
    assert plate.mean(0).tolist() == pytest.approx([40, 70], abs=3)


@pytest.mark.parametrize("size", [16, 24, 40, 192])
def test_a_stamp_fits_into_small_boxes(size: int) -> None:
    sheet = Canvas(size + 20, size + 20)
    sheet.stamp("constant", 10, 10, size, size)
    inked = (sheet.picture().amin(0) < 255).nonzero()
    assert int(inked.min()) >= 10
    assert int(inked.max()) < size + 10


def test_a_bar_without_width_draws_nothing() -> None:
    sheet = Canvas(10, 10)
    sheet.bar(2, 2, 3, 0, INK)
    assert bool((sheet.picture() == 255).all())
    sheet.bar(2, 3, 4, 5, INK)
    assert dark(sheet.picture()).nonzero().amin(0).tolist() == [2, 3]
    assert dark(sheet.picture()).nonzero().amax(0).tolist() == [5, 7]


@pytest.mark.parametrize("signed", [False, True])
def test_a_legend_shows_the_colors_in_order(signed: bool) -> None:
    sheet = Canvas(50, 500)
    used = sheet.legend(ColorScale(), signed, 4, 10, 15, 100)
    picture = sheet.picture()
    assert 100 < used < 490
    assert bool((picture[:, :, 10 + used :] == 255).all())
    # Seen along the middle of the bar: gray to bright, or blue over gray to red.
    row = picture[:, 12, 10 : 10 + 100].int()
    colored = (row.amax(0) - row.amin(0) > 40).nonzero().flatten()
    first, last = row[:, colored[0]], row[:, colored[-1]]
    assert bool(first[2] > first[0]) == signed
    assert bool(last[0] > last[2])


def test_an_outline_stands_out_and_does_not_cover_a_scattered_map() -> None:
    def share_covered(marked: torch.Tensor) -> float:
        sheet = Canvas(150, 150)
        sheet.bar(0, 0, 150, 150, (200, 80, 60))
        sheet.outline(marked, 0, 0, (150, 150))
        orange = torch.tensor([200, 80, 60], dtype=torch.uint8).view(3, 1, 1)
        return float((sheet.picture() != orange).any(0).float().mean())

    compact = torch.zeros(64, 64, dtype=torch.bool)
    compact[20:40, 20:40] = True
    scattered = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) < 0.1
    # Dark and white, four pixels wide around 47 x 47.
    assert share_covered(compact) > 0.03
    assert share_covered(scattered) < 0.25
