import dataclasses
import itertools
from io import BytesIO

import pytest
import torch
from PIL import Image

from lightning_saliency.errors import InputError
from lightning_saliency.rendering import (
    ColorScale,
    Frame,
    film_frame,
    filmstrip,
    heatmap,
    overlay,
    select_frames,
)

NAN = float("nan")


def plain_frames(count: int, rows: int = 2, size: int = 64) -> list[Frame]:
    """Return frames of one color each, so that each can be found again in the strip."""
    return [
        Frame(
            torch.full((rows, 3, size, size), 2 * index, dtype=torch.uint8),
            ("",) * rows,
            (NAN,) * rows,
        )
        for index in range(count)
    ]


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


def test_a_frame_survives_a_checkpoint() -> None:
    frame = plain_frames(1)[0]
    file = BytesIO()
    torch.save(dataclasses.asdict(frame), file)
    file.seek(0)
    restored = Frame(**torch.load(file, weights_only=True))
    assert torch.equal(restored.pictures, frame.pictures)
    assert restored.fault == frame.fault


def test_a_frame_of_other_samples_is_an_error() -> None:
    heat = heatmap(torch.ones(2, 1, 8, 8), ColorScale())
    with pytest.raises(InputError, match=r"\(2, 3, H, W\)"):
        film_frame(torch.zeros(3, 3, 8, 8), heat)


# --- strips -----------------------------------------------------------------------------------


def test_samples_go_down_and_epochs_across() -> None:
    frames = [
        Frame(
            torch.stack([torch.full((3, 64, 64), 10 * c + r, dtype=torch.uint8) for r in range(3)]),
            ("",) * 3,
            (NAN,) * 3,
        )
        for c in range(4)
    ]
    strip = filmstrip(frames, ["a", "b", "c"], list("0123"))
    corners = torch.empty(3, 4, 2)
    for r in range(3):
        for c in range(4):
            found = (strip == 10 * c + r).all(0).nonzero()
            assert len(found) == 64 * 64
            corners[r, c] = found[0].float()
    assert bool((corners[:, :, 0].diff(dim=0) == 64 + 4 + 6).all())
    assert bool((corners[:, :, 0].diff(dim=1) == 0).all())
    assert bool((corners[:, :, 1].diff(dim=1) == 64 + 3).all())


def test_the_first_column_is_the_input() -> None:
    images = torch.full((2, 3, 16, 16), 200 / 255)
    with_images = filmstrip(plain_frames(3), ["a", "b"], list("012"), images)
    without = filmstrip(plain_frames(3), ["a", "b"], list("012"))
    assert with_images.shape[2] - without.shape[2] == 67
    inputs = (with_images == 200).all(0).nonzero()
    first = (with_images == 0).all(0).nonzero()
    assert len(inputs) >= 2 * 64 * 64
    assert int(inputs[:, 1].max()) < int(first[:, 1].min())


@pytest.mark.parametrize(
    ("ratio", "share"),
    [(NAN, 0), (0, 0), (1e-4, 0), (1e-3, 0), (0.1, 1 / 3), (1, 0.5), (1000, 1), (1e9, 1)],
)
def test_the_bar_shows_how_strong_a_map_is(ratio: float, share: float) -> None:
    white = torch.full((1, 3, 60, 60), 255, dtype=torch.uint8)
    strip = filmstrip([Frame(white, ("",), (ratio,))], [""], [""])
    bar = (strip != 255).any(0).nonzero()
    assert len(bar) == 4 * round(share * 60)


def test_a_sample_without_a_map_is_named_at_any_size() -> None:
    white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    for count in (1, 200):
        blank = [Frame(white, ("",), (NAN,))] * count
        named = [Frame(white, ("constant",), (NAN,))] * count
        labels = [""] * count
        inked = (filmstrip(named, [""], labels) != filmstrip(blank, [""], labels)).any(0)
        assert int(inked.sum()) > 50 * count


def test_labels_are_readable_and_do_not_run_into_each_other() -> None:
    short = filmstrip(plain_frames(3), ["a", "b"], ["0", "1", "2"], title="t")
    long = filmstrip(plain_frames(3), ["a" * 500, "b"], ["0" * 500, "1", "2"], title="t" * 900)
    assert long.shape[1] == short.shape[1]
    assert long.shape[2] - short.shape[2] <= 120


def test_a_legend_is_added_beneath() -> None:
    without = filmstrip(plain_frames(9), ["a", "b"], list("012345678"))
    legend = (ColorScale(), False)
    with_legend = filmstrip(plain_frames(9), ["a", "b"], list("012345678"), legend=legend)
    assert with_legend.shape[1] - without.shape[1] == 18
    height = without.shape[1] - 8
    assert torch.equal(with_legend[:, :height], without[:, :height])


@pytest.mark.parametrize("epochs", [16, 100])
def test_a_strip_stays_below_a_megabyte_whatever_it_shows(epochs: int) -> None:
    # Nothing compresses less than noise in all three colors.
    generator = torch.Generator().manual_seed(0)
    shown = select_frames(epochs)
    frames = [
        Frame(
            torch.randint(0, 256, (8, 3, 64, 64), generator=generator, dtype=torch.uint8),
            ("",) * 8,
            (1.0,) * 8,
        )
        for _ in shown
    ]
    images = torch.rand(8, 3, 64, 64, generator=generator)
    rows = [f"{i}: a class" for i in range(8)]
    legend = (ColorScale(), False)
    strip = filmstrip(frames, rows, [str(i) for i in shown], images, "grad_cam, by epoch", legend)
    assert 500_000 < png_size(strip) < 1_000_000


def test_no_frames_or_frames_that_differ_are_errors() -> None:
    with pytest.raises(InputError, match="at least one frame"):
        filmstrip([], [], [])
    with pytest.raises(InputError, match=r"\(2, 3, 64, 64\).*\(3, 3, 64, 64\)"):
        filmstrip([*plain_frames(1, 2), *plain_frames(1, 3)], ["a", "b"], ["0", "1"])
    with pytest.raises(InputError, match=r"images of shape \(2, 3, H, W\)"):
        filmstrip(plain_frames(1), ["a", "b"], ["0"], torch.zeros(3, 3, 8, 8))


@pytest.mark.parametrize(("rows", "columns"), [(["a"], ["0"]), (["a", "b"], [])])
def test_missing_labels_are_errors(rows: list[str], columns: list[str]) -> None:
    with pytest.raises(InputError, match="2 row labels and 1 column labels"):
        filmstrip(plain_frames(1), rows, columns)
