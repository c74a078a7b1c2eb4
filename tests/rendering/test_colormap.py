import matplotlib
import pytest
import torch

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.colors import (
    NEGATIVE,
    NON_FINITE,
    SEQUENTIAL,
    apply_colormap,
)


def color_of(value: float, name: str) -> list[float]:
    return apply_colormap(torch.tensor(value).view(1, 1, 1, 1), name).flatten().tolist()


@pytest.mark.parametrize("name", [SEQUENTIAL, NEGATIVE, "viridis"])
@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_colors_are_those_of_matplotlib(name: str, value: float) -> None:
    expected = matplotlib.colormaps[name](value)[:3]
    assert color_of(value, name) == pytest.approx(expected, abs=0.012)


def test_pixels_stay_where_they_are() -> None:
    values = torch.tensor([[0.0, 0.5], [1.0, 0.0]]).view(1, 1, 2, 2)
    colors = apply_colormap(values)
    assert colors.shape == (1, 3, 2, 2)
    assert colors.dtype == torch.float32
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        expected = color_of(float(values[0, 0, row, column]), SEQUENTIAL)
        assert colors[0, :, row, column].tolist() == expected


def test_values_outside_count_as_the_ends() -> None:
    assert color_of(-3.0, SEQUENTIAL) == color_of(0.0, SEQUENTIAL)
    assert color_of(7.0, SEQUENTIAL) == color_of(1.0, SEQUENTIAL)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [SEQUENTIAL, NEGATIVE])
def test_non_finite_values_have_a_color_that_no_value_has(value: float, name: str) -> None:
    assert color_of(value, name) == list(NON_FINITE)
    every = apply_colormap(torch.linspace(0, 1, 2000).view(1, 1, 1, -1), name)[0, :, 0].T
    assert float((every - torch.tensor(NON_FINITE)).norm(dim=1).min()) > 0.5


def test_the_sequential_map_gets_brighter_with_the_value() -> None:
    colors = apply_colormap(torch.linspace(0, 1, 257).view(1, 1, 1, -1))[0, :, 0]
    luma = (torch.tensor([0.299, 0.587, 0.114])[:, None] * colors).sum(0)
    assert bool((luma.diff() >= 0).all())


def test_half_precision_is_taken() -> None:
    assert apply_colormap(torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("shape", [(4, 4), (1, 3, 4, 4)])
def test_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\(N, 1, H, W\)"):
        apply_colormap(torch.zeros(shape))


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(InputError, match="'nosuchmap'"):
        apply_colormap(torch.zeros(1, 1, 1, 1), "nosuchmap")
