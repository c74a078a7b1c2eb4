import itertools
import math
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_saliency.errors import InputError
from lightning_saliency.rendering import (
    ColorScale,
    Column,
    Curves,
    film_frame,
    filmstrip,
    heatmap,
    overlay,
    select_columns,
    select_frames,
)
from lightning_saliency.rendering.canvas import INK, text_width
from lightning_saliency.rendering.filmstrip import BLUE, CRIMSON, TINT
from lightning_saliency.rendering.filmstrip import _range as filmstrip_range

NAN = float("nan")


def level(number: int) -> int:
    """One of the 40 shades that the strip draws pictures in."""
    return round(number * 255 / 39)


FIRST, INPUT = level(6), level(31)


def column(place: int = 0, rows: int = 2, **changes: Any) -> Column:
    """Return pictures of one color each, so that each can be found again in the strip."""
    settings: dict[str, Any] = {
        "label": str(place),
        "pictures": torch.full((rows, 3, 64, 64), level(6 + place), dtype=torch.uint8),
        "fault": ("",) * rows,
        "moved": (NAN,) * rows,
        "wrong": (False,) * rows,
        "flipped": (False,) * rows,
        **changes,
    }
    return Column(**settings)


def strip(columns: list[Column], rows: int = 2, **settings: Any) -> torch.Tensor:
    images = torch.full((rows, 3, 64, 64), INPUT / 255)
    names = [f"class {i}" for i in range(rows)]
    return filmstrip(images, columns, names, list(range(rows)), **settings)


def of_color(picture: torch.Tensor, ink: tuple[int, int, int]) -> torch.Tensor:
    return (picture == torch.tensor(ink).view(3, 1, 1)).all(0)


def png_size(picture: torch.Tensor) -> int:
    pixels = picture.permute(1, 2, 0).contiguous().numpy()
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return len(file.getvalue())


# --- thinning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [2, 3, 8, 16, 24])
def test_thinning_keeps_first_and_last_evenly_and_never_too_many(most: int) -> None:
    for count in range(1, 300):
        chosen = select_frames(count, most)
        assert len(chosen) <= most
        assert chosen[0] == 0
        assert chosen[-1] == count - 1
        steps = {b - a for a, b in itertools.pairwise(chosen[:-1])}
        assert len(steps) <= 1
        if count <= most:
            assert chosen == list(range(count))
        else:
            assert len(chosen) > most // 2


@pytest.mark.parametrize("most", [2, 5, 16])
def test_what_was_thinned_out_never_comes_back(most: int) -> None:
    kept: list[int] = []
    for count in range(1, 400):
        kept.append(count - 1)
        kept = [index for index in kept if index in set(select_frames(count, most))]
        assert kept == select_frames(count, most)


def test_nothing_to_thin() -> None:
    assert select_frames(0) == []
    assert select_frames(1) == [0]


@pytest.mark.parametrize(("count", "most"), [(-1, 8), (5, 1), (5, 0)])
def test_thinning_to_fewer_than_two_is_an_error(count: int, most: int) -> None:
    with pytest.raises(InputError, match="most >= 2"):
        select_frames(count, most)


@pytest.mark.parametrize("count", [1, 2, 8, 9, 30, 200])
def test_columns_are_the_first_the_last_and_the_middle_of_the_gaps(count: int) -> None:
    chosen = select_columns(range(count))
    assert len(chosen) == min(count, 8)
    assert chosen[0] == 0
    assert chosen[-1] == count - 1
    gaps = [b - a for a, b in itertools.pairwise(chosen)]
    assert max(gaps, default=1) <= 2.1 * min(gaps, default=1) + 1


def test_an_alarm_and_the_epoch_before_it_are_columns() -> None:
    for alarm in range(1, 40):
        assert {alarm - 1, alarm} <= set(select_columns(range(40), [alarm - 1, alarm]))
    # The newest alarms, if there are too many; the first and the last always.
    chosen = select_columns(range(40), range(10, 30))
    assert chosen == [0, *range(24, 30), 39]


# --- frames -----------------------------------------------------------------------------------


def test_a_frame_holds_the_pictures_and_what_is_written_on_them() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 64, 64, generator=generator)
    maps = torch.rand(2, 1, 64, 64, generator=generator)
    maps[1] = 0
    heat = heatmap(maps, ColorScale(reference=0.25))
    laid = overlay(image, heat)
    frame = film_frame(laid, heat)
    assert torch.equal(frame.pictures, (laid * 255).round().byte())
    assert frame.fault == ("", "zero")
    assert frame.relative_strength == pytest.approx((2, 0), abs=0.1)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((8, 8), (64, 64)), ((28, 28), (56, 56)), ((96, 48), (64, 32)), ((224, 224), (64, 64))],
)
def test_frames_are_small(size: tuple[int, int], expected: tuple[int, int]) -> None:
    heat = heatmap(torch.ones(1, 1, *size), ColorScale())
    assert film_frame(torch.zeros(1, 3, *size), heat).pictures.shape == (1, 3, *expected)


def test_a_frame_of_other_samples_is_an_error() -> None:
    heat = heatmap(torch.ones(2, 1, 8, 8), ColorScale())
    with pytest.raises(InputError, match=r"\(2, 3, H, W\)"):
        film_frame(torch.zeros(3, 3, 8, 8), heat)


# --- strips -----------------------------------------------------------------------------------


def corners(picture: torch.Tensor, color: int) -> tuple[int, int, int]:
    found = of_color(picture, (color, color, color)).nonzero()
    return int(found[:, 0].min()), int(found[:, 1].min()), len(found)


def test_samples_go_down_and_epochs_across() -> None:
    def paint(place: int, row: int) -> tuple[int, int, int]:
        return level(6 + place), level(20 + row), level(1)

    def pictures(place: int) -> torch.Tensor:
        colors = torch.tensor([paint(place, row) for row in range(3)], dtype=torch.uint8)
        return colors.view(3, 3, 1, 1).expand(3, 3, 64, 64)

    columns = [column(place, 3, pictures=pictures(place)) for place in range(8)]
    picture = strip(columns, 3)
    assert picture.shape[2] == 700
    tops, lefts = torch.zeros(3, 8), torch.zeros(3, 8)
    for r in range(3):
        for c in range(8):
            found = of_color(picture, paint(c, r)).nonzero()
            tops[r, c], lefts[r, c] = found[:, 0].min(), found[:, 1].min()
            assert 40 * 40 <= len(found) <= 64 * 64
    assert bool((tops.diff(dim=1) == 0).all())
    assert bool((lefts.diff(dim=0) == 0).all())
    assert len(lefts.diff(dim=1).unique()) == 1
    assert len(tops.diff(dim=0).unique()) == 1
    assert corners(picture, INPUT)[1] < int(lefts.min())


@pytest.mark.parametrize("count", [1, 3, 8])
def test_pictures_have_at_most_64_pixels_and_the_strip_is_as_wide_as_a_card_wants(
    count: int,
) -> None:
    picture = strip([column(place) for place in range(count)])
    assert picture.shape[2] == 700
    assert corners(picture, FIRST)[2] <= 2 * 64 * 64


def test_epochs_and_classes_are_legible_at_half_the_width() -> None:
    from lightning_saliency.rendering.canvas import font

    picture = strip([column(place) for place in range(8)])
    small = Image.fromarray(picture.permute(1, 2, 0).numpy())
    small = small.resize((337, round(337 / 700 * picture.shape[1])))
    gray = torch.from_numpy(np.array(small.convert("L")))
    # Bold digits of 20 pixels keep strokes that are nearly black.
    assert font(20, bold=True).getlength("0") > 12
    assert int((gray[12:32, 110:] < 90).sum()) > 40


def test_a_wrong_prediction_has_a_blue_frame_and_a_changed_one_a_blue_corner() -> None:
    plain = of_color(strip([column()]), BLUE).sum()
    wrong = of_color(strip([column(wrong=(True, False))]), BLUE)
    flipped = of_color(strip([column(flipped=(True, False))]), BLUE)
    frame, corner = wrong.sum() - plain, flipped.sum() - plain
    # Three pixels around a picture of 64 with a gap of one.
    assert int(frame) == 4 * 3 * (64 + 2 + 3)
    assert 80 < int(corner) < 16 * 16
    # The white gap between the picture and its frame.
    picture = strip([column(wrong=(True, False))])
    top, left, _ = corners(picture, FIRST)
    assert picture[:, top - 1, left + 5].tolist() == [255, 255, 255]
    assert tuple(picture[:, top - 2, left + 5].tolist()) == BLUE


@pytest.mark.parametrize(("moved", "share"), [(0.0, 0), (0.25, 0.25), (1.0, 1), (NAN, None)])
def test_the_bar_shows_how_far_a_map_has_moved(moved: float, share: float | None) -> None:
    def ink(value: float) -> int:
        white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
        picture = strip([column(0, 1, pictures=white, moved=(value,))], 1)
        return int(of_color(picture, INK).sum())

    assert ink(moved) - ink(NAN) == 6 * round(64 * (share or 0))


def test_an_alarm_has_a_crimson_head_and_a_tinted_column() -> None:
    quiet, loud = strip([column()]), strip([column(alarm=True)])
    assert int(of_color(quiet, TINT).sum()) == 0
    heads = of_color(loud, CRIMSON).sum() - of_color(quiet, CRIMSON).sum()
    assert int(heads) > 1000
    assert int(of_color(loud, TINT).sum()) > 500


def test_the_curves_lie_beneath_their_columns() -> None:
    columns = [column(place) for place in range(4)]
    flat = Curves([0, 1, 2, 3], [NAN, 1.0, 1.0, 0.0], [2.0, 2.0, 1.0, NAN])
    picture = strip(columns, curves=flat)
    bare = strip(columns, curves=Curves())
    drawn = of_color(picture, INK) & ~of_color(bare, INK)
    rows, places = drawn.nonzero().unbind(1)
    _, first, _ = corners(picture, level(7))
    _, last, _ = corners(picture, level(9))
    assert first + 20 < int(places.min()) < int(places.max()) < last + 64
    # Down at the end, where nothing moved.
    ends = drawn[:, last + 20 : last + 44].nonzero()[:, 0]
    assert int(ends.max()) > int(rows.min()) + 60
    loss = of_color(picture, BLUE) & ~of_color(bare, BLUE)
    assert int(loss.sum()) > 60


@pytest.mark.parametrize("moved", [0.3, 0.31, 0.32, 0.335, 0.35])
@pytest.mark.parametrize("phase", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_card_of_half_the_size_shows_curves_without_holes(
    moved: float, phase: tuple[int, int]
) -> None:
    columns = [column(place) for place in range(4)]
    picture = strip(columns, curves=Curves([0, 1, 2, 3], [0.3, moved, 0.3, moved], [1.0] * 4))
    # TensorBoard leaves out every second row and column of pixels.
    half = picture[:, phase[0] :: 2, phase[1] :: 2]
    _, first, _ = corners(picture, FIRST)
    _, last, _ = corners(picture, level(9))
    chart = of_color(half, INK)[-70:]
    inside = chart[:, (first + 36) // 2 : (last + 28) // 2]
    assert bool(inside.any(0).all())


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.5, 1.25, "0.5 to 1.2"),
        (0.083, 0.72, "0.083\N{EN DASH}0.72"),
        (0.5, 0.5, "0.5"),
        # A dash would be taken for a sign.
        (-0.025, 0.0034, "-0.025 to 0.0034"),
    ],
)
def test_the_range_of_the_loss_is_as_large_as_that_of_drift_if_it_fits(
    low: float, high: float, words: str
) -> None:
    found, size = filmstrip_range(low, high, 75)
    assert found == words
    assert size == (13 if low >= 0 else 10)
    assert text_width(found, 13) <= 75 or size == 10


def test_a_sample_without_a_map_is_named() -> None:
    white = torch.full((2, 3, 64, 64), 255, dtype=torch.uint8)
    for count in (1, 8):
        blank = [column(pictures=white)] * count
        named = [column(pictures=white, fault=("constant", ""))] * count
        inked = (strip(named) != strip(blank)).any(0)
        assert int(inked.sum()) > 50 * count


def test_long_names_do_not_run_into_the_pictures() -> None:
    images = torch.full((2, 3, 64, 64), INPUT / 255)
    columns = [column(place) for place in range(8)]
    long = filmstrip(images, columns, ["a" * 500, "b"], [0, 10**9], "t" * 900, "n" * 900)
    assert long.shape[2] == 700
    assert corners(long, INPUT)[2] == 2 * math.isqrt(corners(long, INPUT)[2] // 2) ** 2


def test_a_strip_of_noise_stays_below_a_megabyte() -> None:
    generator = torch.Generator().manual_seed(0)
    columns = [
        column(
            place,
            8,
            pictures=torch.randint(0, 256, (8, 3, 64, 64), generator=generator, dtype=torch.uint8),
        )
        for place in range(8)
    ]
    picture = strip(columns, 8, title="grad_cam", legend=(ColorScale(), True))
    assert png_size(picture) < 1_000_000


@pytest.mark.parametrize("shape", [(64, 64), (20, 60), (300, 100), (1, 1)])
def test_pictures_of_any_shape(shape: tuple[int, int]) -> None:
    images = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    one = column(0, 1, pictures=images)
    assert filmstrip(images, [one], ["a"], [0], legend=(ColorScale(), False)).shape[2] == 700


def test_what_does_not_fit_together_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one column"):
        strip([])
    with pytest.raises(InputError, match="all of 2 samples"):
        strip([column(rows=3)])
    with pytest.raises(InputError, match="a label for each"):
        filmstrip(torch.zeros(2, 3, 4, 4), [column()], ["a"], [0, 1])
