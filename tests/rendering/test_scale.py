import dataclasses
import math

import numpy as np
import pytest
import torch

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.colors import (
    ColorScale,
    color_scale,
    strength,
)

NAN, INF = float("nan"), float("inf")


def as_map(*values: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype).view(1, 1, 1, -1)


def test_strength_is_the_mean_absolute_value() -> None:
    maps = torch.cat([as_map(1, -2, 3, 0), as_map(0, 0, 0, 0), as_map(NAN, 4, INF, 2)])
    assert strength(maps).tolist() == [1.5, 0.0, 3.0]


@pytest.mark.parametrize("value", [1e-44, 3e38])
def test_strength_of_the_smallest_and_largest_floats(value: float) -> None:
    maps = torch.full((1, 1, 50, 50), value)
    assert float(strength(maps)) == pytest.approx(float(maps[0, 0, 0, 0]), rel=1e-6)


def test_strength_does_not_overflow_in_double() -> None:
    assert float(strength(torch.full((1, 1, 9, 9), 1e308, dtype=torch.float64))) == 1e308


def test_a_share_is_relative_to_the_mean_of_the_map() -> None:
    # Mean 1: from 1 to 16 times that in four doublings, the middle lifted.
    position = ColorScale().place(torch.tensor([0.0, 0.5, 1, 2, 4, 8, 16, 100, -4]))
    expected = [0, 0, 0, 0.25**0.75, 0.5**0.75, 0.75**0.75, 1, 1, -(0.5**0.75)]
    assert position.tolist() == pytest.approx(expected)
    saliency = as_map(*[0.0] * 15, 16.0)
    assert ColorScale().position(saliency).flatten().tolist() == [0.0] * 15 + [1.0]


def test_shares_do_not_depend_on_the_size_of_the_gradients() -> None:
    scale = ColorScale(reference=1.0)
    saliency = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    torch.testing.assert_close(scale.position(saliency), scale.position(60 * saliency))


def test_a_map_is_measured_as_small_as_drift_compares_it() -> None:
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(2, 1, 32, 64, generator=generator) ** 6
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    noise = torch.rand(2, 1, 128, 256, generator=generator)
    position = ColorScale().position(large)
    assert position.shape == large.shape
    middle = position[:, :, 2::4, 2::4]
    torch.testing.assert_close(middle, ColorScale().position(small), rtol=0, atol=0.2)
    # Of single pixels of noise there remains what their areas have in common: nothing.
    assert float(ColorScale().position(noise).max()) < 0.25


def test_at_most_a_sixteenth_of_a_map_is_at_full_color() -> None:
    generator = torch.Generator().manual_seed(0)
    for exponent in (0.1, 1, 5, 30):
        maps = torch.rand(16, 1, 32, 32, generator=generator) ** exponent
        beyond = (ColorScale().position(maps) >= 1).double().mean((1, 2, 3))
        assert float(beyond.max()) <= 1 / 16


def test_a_value_means_the_same_in_every_map() -> None:
    scale = ColorScale("value", full=4.0, reference=1.0)
    maps = torch.cat([as_map(1, 2), as_map(2, 800)])
    assert scale.position(maps).flatten().tolist() == [0.25, 0.5, 0.5, 1.0]


def test_positions_keep_the_sign_and_mark_what_is_not_finite() -> None:
    position = ColorScale("value", full=2.0).position(as_map(-1, NAN, INF, -INF)).flatten()
    assert position[0] == -0.5
    assert position[1:].isnan().all()


def test_a_map_that_vanishes_fades_in_proportion() -> None:
    scale = ColorScale(reference=1.0)
    saliency = as_map(0, 0, 0, 4)  # strength 1, share of the last pixel 4
    found = [float(scale.position(part * saliency).max()) for part in (1, 0.01, 0.005, 1e-9)]
    assert found == pytest.approx([0.5**0.75, 0.5**0.75, 0.25**0.75, 0])


def test_the_first_maps_settle_the_scale() -> None:
    maps = torch.cat([as_map(1, 3), as_map(0, 0), as_map(5, 5), as_map(NAN, NAN), as_map(0, 1)])
    scale = color_scale(maps)
    # Of the maps that show something: strengths 2 and 0.5.
    assert scale == ColorScale("share", 16.0, reference=2.0)


def test_full_color_of_values_is_a_high_quantile_of_all_first_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 1, 20, 20, generator=generator)
    scale = color_scale(maps, "value")
    assert scale is not None
    expected = np.sort(np.abs(maps.double().numpy()).ravel())[math.ceil(0.995 * 1600) - 1]
    assert scale.full == pytest.approx(float(expected))
    assert float((maps.abs() > scale.full).double().mean()) == pytest.approx(0.005)


def test_an_outlier_does_not_settle_full_color() -> None:
    maps = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    maps[0, 0, 3, 3] = 1e6
    scale = color_scale(maps, "value")
    assert scale is not None
    assert scale.full <= 1


def test_full_color_is_positive_also_for_a_single_pixel() -> None:
    maps = torch.zeros(1, 1, 40, 40)
    maps[0, 0, 1, 1] = 0.25
    scale = color_scale(maps, "value")
    assert scale is not None
    assert scale.full == 0.25


@pytest.mark.parametrize("unit", ["share", "value"])
def test_nothing_can_be_settled_without_information(unit: str) -> None:
    maps = torch.cat([as_map(0, 0), as_map(5, 5), as_map(NAN, INF)])
    assert color_scale(maps, unit) is None


def test_the_scale_survives_a_checkpoint() -> None:
    scale = ColorScale("value", 0.5, 0.25)
    assert ColorScale(**dataclasses.asdict(scale)) == scale


def test_labels_say_what_full_color_is() -> None:
    assert ColorScale().label() == "16x mean"
    assert ColorScale("value", 0.03125).label() == "0.0312"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "percent"}, "'share' or 'value'"),
        ({"full": 1.0}, "full"),
        ({"unit": "value", "full": 0.0}, "full"),
        ({"full": INF}, "full"),
        ({"full": NAN}, "full"),
        ({"reference": -1.0}, "reference"),
        ({"reference": NAN}, "reference"),
    ],
)
def test_settings_out_of_range_are_errors(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ColorScale(**settings)


def test_an_unknown_unit_is_an_error() -> None:
    with pytest.raises(InputError, match="'percent'"):
        color_scale(as_map(1, 2), "percent")
