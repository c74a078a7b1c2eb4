import pytest
import torch

from lightning_saliency.errors import InputError
from lightning_saliency.metrics import degenerate
from lightning_saliency.rendering.colors import ColorScale, color_scale, ramp_colors, ramp_opacity
from lightning_saliency.rendering.heatmap import Heatmap, heatmap

NAN, INF = float("nan"), float("inf")
UNIT = ColorScale("value", full=1.0)


def blob(size: int = 16, peak: float = 1.0) -> torch.Tensor:
    place = torch.linspace(-1, 1, size)
    return peak * torch.exp(-4 * (place[:, None] ** 2 + place**2)).view(1, 1, size, size)


def test_colors_are_the_positions_on_the_scale() -> None:
    saliency = torch.tensor([0.0, 0.5, 1.0, 9.0, -2.0]).view(1, 1, 1, 5)
    heat = heatmap(saliency, UNIT)
    place = saliency.clamp(0, 1)
    expected = 0.2 + ramp_opacity(place) * (ramp_colors(place) - 0.2)
    torch.testing.assert_close(heat.color, expected)
    assert heat.opacity.flatten().tolist() == pytest.approx([0, 0.85, 0.85, 0.85, 0])
    assert heat.clipped == (0.4,)
    assert heat.fault == ("",)


def test_signed_maps_are_blue_below_zero_and_as_opaque() -> None:
    saliency = torch.tensor([-9.0, -0.2, 0.0, 0.2, 1.0]).view(1, 1, 1, 5)
    heat = heatmap(saliency, UNIT, signed=True)
    red, _, blue = heat.color[0, :, 0]
    assert bool((blue[:2] > red[:2] + 0.1).all())
    assert bool((red[3:] > blue[3:] + 0.1).all())
    assert heat.color[0, :, 0, 2].tolist() == pytest.approx([0.2] * 3)
    assert heat.opacity.flatten().tolist() == pytest.approx([0.85, 0.44, 0, 0.44, 0.85])
    assert heat.clipped == (0.4,)


@pytest.mark.parametrize(
    ("values", "signed", "fault"),
    [
        ((0, 0, 0, 0), False, "zero"),
        ((0.7, 0.7, 0.7, 0.7), False, "constant"),
        ((0.7, 0.7, NAN, 0.7), False, "NaN"),
        ((-0.7, -0.7, -0.7, -0.7), True, "constant"),
        ((NAN, NAN, INF, -INF), False, "NaN"),
        ((0, 0, NAN, 0), False, "NaN"),
        ((-1, -2, 0, 0), False, "negative"),
        ((-1, -2, 0, 0), True, ""),
        ((-1, 2, 0, 0), False, ""),
        ((1, 2, NAN, 0), False, "NaN"),
        ((1, 2, INF, 0), True, "NaN"),
    ],
)
def test_a_map_without_information_is_hatched(
    values: tuple[float, ...], signed: bool, fault: str
) -> None:
    saliency = torch.tensor(values).view(1, 1, 2, 2)
    heat = heatmap(saliency.repeat(1, 1, 8, 8), ColorScale(), signed)
    assert heat.fault == (fault,)
    grays = heat.color.unique().tolist()
    is_hatch = bool((heat.color == heat.color[:, :1]).all()) and len(grays) == 2
    assert is_hatch == bool(fault)
    if fault:
        assert grays == pytest.approx([0.55, 0.85])
        assert bool((heat.opacity == 1).all())


def test_only_the_map_without_information_is_hatched() -> None:
    maps = torch.cat([blob(), torch.zeros(1, 1, 16, 16), blob()])
    heat = heatmap(maps, ColorScale())
    assert heat.fault == ("", "zero", "")
    assert torch.equal(heat.color[0], heatmap(blob(), ColorScale()).color[0])
    assert not torch.equal(heat.color[1], heat.color[0])


def test_the_hatch_has_eight_stripes_on_any_map() -> None:
    for size in (16, 64, 224):
        row = heatmap(torch.zeros(1, 1, size, size), ColorScale()).color[0, 0, 0]
        edges = int((row.diff() != 0).sum())
        # A small map has fewer: a stripe and its gap need four pixels.
        assert edges == min(2 * 8, size // 2) - 1


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_map_with_one_pixel_that_is_not_finite_is_hatched_as_it_is_degenerate(
    value: float,
) -> None:
    maps = torch.cat([blob(), blob(), torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)])
    maps[1, 0, 3, 4] = value
    heat = heatmap(maps, UNIT)
    hatched = [bool(word) for word in heat.fault]
    assert hatched == degenerate(maps).tolist() == [False, True, True, True]
    assert torch.equal(heat.color[1], heat.color[2])
    assert heat.non_finite == (0, 1 / 256, 0, 0)


def test_the_same_value_has_the_same_color_in_every_epoch_of_a_fixed_scale() -> None:
    scale = color_scale(blob(peak=1.0), "value")
    assert scale is not None
    weaker = heatmap(blob(peak=0.5), scale)
    first = heatmap(blob(peak=1.0), scale)
    # Half as strong: half of the way to full color, and not stretched to all of it.
    assert weaker.clipped == (0,)
    assert first.clipped[0] > 0
    assert float(weaker.color.max()) < float(first.color.max())


def test_noise_that_is_left_of_a_map_is_not_stretched() -> None:
    scale = color_scale(blob())
    assert scale is not None
    noise = 1e-7 * torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    heat = heatmap(noise, scale)
    assert heat.faint == (True,)
    assert float(heat.opacity.max()) == 0
    assert heat.color.unique().tolist() == pytest.approx([0.2])


def test_numbers_beside_the_picture() -> None:
    maps = torch.cat([blob(), 3 * blob()])
    reference = float(blob().double().mean())
    heat = heatmap(maps, ColorScale(reference=reference))
    assert heat.strength == pytest.approx((reference, 3 * reference))
    assert heat.relative_strength == pytest.approx((1, 3))
    assert heat.faint == (False, False)


def test_without_first_maps_nothing_is_said_about_them() -> None:
    heat = heatmap(blob(), ColorScale())
    assert heat.relative_strength[0] != heat.relative_strength[0]
    assert heat.faint == (False,)


def test_indexing_selects_one_sample() -> None:
    heat = heatmap(torch.cat([blob(), torch.zeros(1, 1, 16, 16)]), ColorScale(), signed=True)
    last = heat[-1]
    assert isinstance(last, Heatmap)
    assert len(last) == 1
    assert last.fault == ("zero",)
    assert last.signed
    assert torch.equal(last.color, heat.color[1:])
    with pytest.raises(IndexError):
        heat[2]


def test_as_bytes_only_the_colors_change() -> None:
    heat = heatmap(torch.cat([blob(), torch.zeros(1, 1, 16, 16)]), ColorScale(), signed=True)
    drawn = heat.as_bytes()
    assert drawn.color.dtype == torch.uint8
    assert torch.equal(drawn.color, (heat.color * 255).round().byte())
    assert drawn.opacity is heat.opacity
    assert (drawn.fault, drawn.scale, drawn.signed) == (heat.fault, heat.scale, heat.signed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_float_gives_float32_and_the_map_is_not_changed(dtype: torch.dtype) -> None:
    saliency = blob().to(dtype).requires_grad_()
    before = saliency.detach().clone()
    heat = heatmap(saliency, ColorScale())
    assert heat.color.dtype == heat.opacity.dtype == torch.float32
    assert not heat.color.requires_grad
    assert torch.equal(saliency.detach(), before)


@pytest.mark.parametrize("peak", [1e-38, 3e38])
def test_extreme_maps_look_like_any_other(peak: float) -> None:
    usual = heatmap(blob(), ColorScale())
    extreme = heatmap(blob(peak=peak), ColorScale())
    assert extreme.fault == ("",)
    torch.testing.assert_close(extreme.opacity, usual.opacity, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 4), (1, 3, 4, 4), (0, 1, 4, 4), (1, 1, 0, 4)])
def test_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\(N, 1, H, W\)"):
        heatmap(torch.zeros(shape), ColorScale())


def test_drawing_uses_no_random_stream() -> None:
    before = torch.get_rng_state()
    heatmap(blob(), ColorScale())
    assert torch.equal(torch.get_rng_state(), before)
