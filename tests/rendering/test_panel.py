from collections.abc import Callable

import pytest
import torch

from lightning_saliency.errors import InputError
from lightning_saliency.rendering import (
    Cell,
    ColorScale,
    Heatmap,
    canvas,
    compare_panel,
    grid,
    heatmap,
    overlay,
    panel,
    to_bytes,
)

SCALE = ColorScale(reference=0.5)
# The numbers beneath the color bar, and what they are.
LEGEND = ["1x", "2x", "4x", "16x", "times the map's own mean", "gray: below its mean"]


def sample(size: int = 64) -> tuple[torch.Tensor, Heatmap, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, size, size, generator=generator)
    heat = heatmap(torch.rand(1, 1, size, size, generator=generator) ** 4, SCALE)
    return image[0], heat, overlay(image, heat)[0]


def written(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], object]) -> list[str]:
    """Return every line of text and every stamp that is drawn."""
    lines: list[str] = []
    from lightning_saliency.rendering.canvas import Canvas

    text, stamp = Canvas.text, Canvas.stamp
    monkeypatch.setattr(
        Canvas, "text", lambda self, line, *a, **k: (lines.append(line), text(self, line, *a, **k))
    )
    monkeypatch.setattr(
        Canvas, "stamp", lambda self, word, *a: (lines.append(word), stamp(self, word, *a))
    )
    draw()
    return lines


def test_input_map_and_overlay_stand_side_by_side_enlarged() -> None:
    image, heat, laid = sample(64)
    picture = panel(image, heat, laid, ["epoch 3"])
    # Caption, remark, and the legend of two lines.
    high = 10 + 20 + 128 + 6 + 20 + 20 + 30 + 10
    assert picture.shape == (3, high, 10 + 3 * 128 + 2 * 6 + 10)
    for place, small in enumerate((image, heat.color[0], laid)):
        left = 10 + place * 134
        shown = picture[:, 30:158, left : left + 128]
        large = small.repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert torch.equal(shown, to_bytes(large))


def test_bytes_look_as_the_numbers_do() -> None:
    image, heat, laid = sample(64)
    pixels = to_bytes(image), heat.as_bytes(), to_bytes(laid)
    assert torch.equal(panel(*pixels), panel(image, heat, laid))
    of_numbers = compare_panel(image, {"a": heat}, {"a": laid})
    assert torch.equal(compare_panel(pixels[0], {"a": pixels[1]}, {"a": pixels[2]}), of_numbers)


@pytest.mark.parametrize("signed", [False, True])
def test_the_remark_fits_above_the_legend(signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.zeros(1, 3, 64, 64)
    heat = heatmap(1e-4 * torch.eye(64)[None, None], ColorScale(reference=0.02), signed)
    fitted: list[str] = []
    shorten = canvas.shorten
    monkeypatch.setattr(
        canvas, "shorten", lambda *args: (fitted.append(shorten(*args)), fitted[-1])[1]
    )
    panel(image[0], heat, overlay(image, heat)[0])
    assert "faint, mean 1.6e-6, 7.8e-5x first" in fitted


def test_a_panel_is_made_of_bytes() -> None:
    picture = panel(*sample(64))
    assert picture.dtype == torch.uint8
    assert int(picture.max()) == 255


@pytest.mark.parametrize("size", [1, 28, 64, 130, 224, 600])
def test_any_size_of_image(size: int) -> None:
    picture = panel(*sample(size), ["epoch 3"])
    assert 416 <= picture.shape[2] <= 820
    assert picture.shape[1] <= 470


def test_letters_grow_with_the_pictures_since_tensorboard_shows_all_panels_in_one_width() -> None:
    parts = []
    for size in (128, 256):
        picture = panel(*sample(size), ["epoch 3"])
        line = 20 * size // 128
        below = 10 + line + size + 6
        caption = (picture.amax(0) < 128)[below : below + line]
        assert caption.any()
        parts.append(int(caption.nonzero()[:, 1].max()) / picture.shape[2])
    assert parts[1] == pytest.approx(parts[0], rel=0.1)


def test_images_that_are_not_square_keep_their_shape() -> None:
    image = torch.zeros(3, 20, 60)
    heat = heatmap(torch.eye(20).repeat(1, 3).view(1, 1, 20, 60), SCALE)
    picture = panel(image, heat, image)
    black = (picture[:, :, 10 : 10 + 180] == 0).all(0).nonzero()
    assert int(black[:, 0].max() - black[:, 0].min()) + 1 == 60
    assert int(black[:, 1].max() - black[:, 1].min()) + 1 == 180


def test_a_map_of_another_size_is_shown_as_large_as_the_image() -> None:
    image = torch.zeros(1, 3, 64, 64)
    heat = heatmap(torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)), SCALE)
    picture = panel(image[0], heat, overlay(image, heat)[0])
    shown = picture[:, 30:158, 144:272]
    expected = heat.color[0].repeat_interleave(16, 1).repeat_interleave(16, 2)
    assert torch.equal(shown, to_bytes(expected))


def test_the_text_of_a_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    image, heat, laid = sample()
    lines = written(
        monkeypatch, lambda: panel(image, heat, laid, ["epoch 3", "predicted 7"], "grad_cam")
    )
    mean = heat.strength[0]
    assert lines == [
        "input",
        "grad_cam",
        "overlay",
        "epoch 3",
        "predicted 7",
        f"mean {mean:.2g}, {mean / 0.5:.2g}x first",
        *LEGEND,
    ]


@pytest.mark.parametrize(
    ("value", "word", "remark"),
    [
        (0.0, "zero", "mean 0"),
        (0.25, "constant", "mean 0.25, 0.5x first"),
        (float("nan"), "NaN", ""),
        (-0.25, "constant", "mean 0.25, 0.5x first"),
    ],
)
def test_a_map_without_information_is_named(
    value: float, word: str, remark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.zeros(1, 3, 16, 16)
    heat = heatmap(torch.full((1, 1, 16, 16), value), SCALE)
    laid = overlay(image, heat)
    lines = written(monkeypatch, lambda: panel(image[0], heat, laid[0]))
    assert lines.count(word) == 2
    assert lines[: -len(LEGEND)][-1] == (remark or "overlay" if value == value else "NaN")


@pytest.mark.parametrize(
    ("change", "scale", "remark"),
    [
        (lambda m: m, ColorScale(), "mean 1"),
        (lambda m: 200 * m, SCALE, "mean 2e+02, 400x first"),
        (lambda m: 1e-4 * m, SCALE, "faint, mean 0.0001, 0.0002x first"),
        (lambda m: m, ColorScale("value", 1.5), "25% beyond, mean 1"),
        (lambda m: m.where(m > 0, torch.nan), ColorScale(), "25.0% NaN"),
    ],
)
def test_the_remark_says_what_colors_do_not_show(
    change: Callable[[torch.Tensor], torch.Tensor],
    scale: ColorScale,
    remark: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saliency = change(torch.tensor([[0.0, 1.0], [1.0, 2.0]]).view(1, 1, 2, 2))
    image = torch.zeros(1, 3, 2, 2)
    heat = heatmap(saliency, scale)
    lines = written(monkeypatch, lambda: panel(image[0], heat, overlay(image, heat)[0]))
    assert remark in lines


def test_two_draws_are_the_same() -> None:
    before = torch.get_rng_state()
    assert torch.equal(panel(*sample(), ["a"]), panel(*sample(), ["a"]))
    assert torch.equal(torch.get_rng_state(), before)


def test_another_caption_changes_only_the_text() -> None:
    one, other = panel(*sample(), ["epoch 1"]), panel(*sample(), ["epoch 2"])
    assert one.shape == other.shape
    changed = (one != other).any(0).nonzero()
    assert len(changed) > 0
    assert int(changed[:, 0].min()) >= 158


def test_methods_stand_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    image, heat, laid = sample(64)
    names = ("gradient", "grad_cam", "rise")
    lines = written(
        monkeypatch,
        lambda: compare_panel(
            image, dict.fromkeys(names, heat), dict.fromkeys(names, laid), ["epoch 3"]
        ),
    )
    assert [line for line in lines if line] == [
        "input",
        "gradient",
        "grad_cam",
        "rise",
        "epoch 3",
        *LEGEND,
    ]
    picture = compare_panel(image, {"a": heat, "b": heat}, {"a": laid, "b": laid})
    large = to_bytes(laid).repeat_interleave(2, 1).repeat_interleave(2, 2)
    for left in (144, 278):
        assert torch.equal(picture[:, 30:158, left : left + 128], large)


def test_long_names_stand_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    image, heat, laid = sample(64)
    endless = "a_name_that_has_no_end" * 5
    names = ("contrastive_excitation_backprop", "extremal_perturbation", endless)
    lines = written(
        monkeypatch,
        lambda: compare_panel(image, dict.fromkeys(names, heat), dict.fromkeys(names, laid)),
    )
    assert lines[:5] == [
        "input",
        "contrastive_",
        "excitation_backprop",
        "extremal_",
        "perturbation",
    ]
    # The rest is cut off where it is drawn.
    assert "".join(lines[5:7]) == endless


def test_each_meaning_of_the_colors_has_its_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    image, heat, laid = sample(16)
    maps = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    heats = {
        "a": heat,
        "b": heatmap(maps, ColorScale(reference=9.0)),
        "c": heatmap(maps, SCALE, signed=True),
        "d": heatmap(maps, ColorScale("value", 2.0)),
    }
    lines = written(monkeypatch, lambda: compare_panel(image, heats, dict.fromkeys(heats, laid)))
    assert [line for line in lines if line in ("16x", "-16x", "2")] == ["16x", "-16x", "16x", "2"]


def test_many_methods_go_on_in_further_rows() -> None:
    image, heat, laid = sample(16)
    names = [f"m{i}" for i in range(7)]
    picture = compare_panel(image, dict.fromkeys(names, heat), dict.fromkeys(names, laid))
    assert picture.shape == (3, 10 + 2 * 20 + 2 * 134 + 30 + 10, 20 + 6 * 134 - 6)


def test_any_pictures_stand_in_a_grid() -> None:
    red = torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, 64, 64)
    picture = grid([[Cell(red), Cell()], [Cell(), Cell(red)]])
    assert picture.shape == (3, 20 + 2 * 134, 20 + 2 * 134 - 6)
    for top, left in ((10, 10), (144, 144)):
        assert bool((picture[1:, top : top + 128, left : left + 128] == 0).all())
    for top, left in ((10, 144), (144, 10)):
        assert bool((picture[:, top : top + 128, left : left + 128] == 255).all())


def test_pictures_of_another_shape_are_errors() -> None:
    image, heat, laid = sample(8)
    with pytest.raises(InputError, match=r"\(3, H, W\)"):
        panel(image[:1], heat, laid)
    with pytest.raises(InputError, match=r"\(3, H, W\)"):
        panel(image[None], heat, laid)
    with pytest.raises(InputError, match=r"heat\[i\]"):
        panel(image, heatmap(torch.ones(2, 1, 8, 8), SCALE), laid)
    with pytest.raises(InputError, match="at least one picture"):
        grid([[Cell()]])


def test_methods_must_have_a_map_and_an_overlay() -> None:
    image, heat, laid = sample(8)
    with pytest.raises(InputError, match=r"\['a'\].*\['b'\]"):
        compare_panel(image, {"a": heat}, {"b": laid})
    with pytest.raises(InputError, match="each of the same methods"):
        compare_panel(image, {}, {})
