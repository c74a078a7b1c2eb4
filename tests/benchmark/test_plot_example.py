import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lightning_saliency.benchmark import plot_example
from lightning_saliency.errors import InputError


@pytest.fixture(autouse=True)
def _no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("MPLBACKEND", "Agg")


def maps_of(figure: Figure) -> list[Any]:
    """Return what is drawn in the right column."""
    return [axes.images[0] for axes in figure.axes if "category" in axes.get_title()]


def pictures_of(figure: Figure) -> list[np.ndarray[Any, Any]]:
    """Return what is drawn in the left column, (H, W, 3)."""
    return [np.asarray(a.images[0].get_array()) for a in figure.axes if a.get_title() == "input"]


def titles_of(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title() not in ("", "input")]


def test_saves_a_picture_without_pyplot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # From here on the import of pyplot fails.
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delattr(matplotlib, "pyplot", raising=False)
    path = tmp_path / "map.png"
    plot_example(torch.rand(1, 3, 32, 32), torch.rand(1, 1, 8, 8), "gradient", 3, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    plot_example(torch.rand(1, 3, 32, 32), torch.rand(1, 1, 8, 8), "gradient", 3, f"{path}.pdf")
    assert (tmp_path / "map.png.pdf").read_bytes().startswith(b"%PDF")


def test_nothing_is_left_in_pyplot() -> None:
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    plot_example(torch.rand(1, 3, 32, 32), torch.rand(1, 1, 8, 8), "gradient", 3)
    assert pyplot.get_fignums() == before


def test_a_window_opens_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import pyplot

    pyplot.switch_backend("Agg")
    shown: list[int] = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(len(pyplot.get_fignums())))
    image, saliency = torch.rand(1, 3, 32, 32), torch.rand(1, 1, 8, 8)
    plot_example(image, saliency, "gradient", 3)
    assert shown == []
    figure = plot_example(image, saliency, "gradient", 3, show_plot=True)
    assert shown == [1]
    pyplot.close(figure)


def test_a_map_stands_beside_its_picture() -> None:
    images, saliency = torch.rand(2, 3, 32, 40), torch.rand(2, 1, 8, 10)
    figure = plot_example(images, saliency, "gradient", [3, 4])
    assert titles_of(figure) == ["gradient, category 3", "gradient, category 4"]
    for shown, image in zip(pictures_of(figure), images, strict=True):
        np.testing.assert_array_equal(shown, image.permute(1, 2, 0))
    for shown, values in zip(maps_of(figure), saliency, strict=True):
        np.testing.assert_array_equal(shown.get_array(), values[0])


def test_maps_without_a_sign_start_at_zero() -> None:
    (drawn,) = maps_of(
        plot_example(torch.rand(1, 3, 8, 8), torch.full((1, 1, 8, 8), 0.4), "cam", 0)
    )
    assert drawn.get_clim() == pytest.approx((0, 0.4))
    assert drawn.get_cmap().name == "inferno"


def test_maps_with_a_sign_have_zero_in_the_middle() -> None:
    saliency = torch.linspace(-2, 1, 64).view(1, 1, 8, 8)
    (drawn,) = maps_of(plot_example(torch.rand(1, 3, 8, 8), saliency, "linear approx", 0))
    assert drawn.get_clim() == (-2, 2)
    assert drawn.get_cmap().name == "RdBu_r"


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_an_empty_map_can_be_drawn(value: float, tmp_path: Path) -> None:
    saliency = torch.full((1, 1, 8, 8), value)
    figure = plot_example(torch.rand(1, 3, 8, 8), saliency, "cam", 0, tmp_path / "map.png")
    assert maps_of(figure)[0].get_clim() == (0, 1)


@pytest.mark.parametrize("low", [-3.0, 2.0])
def test_a_normalised_picture_is_brought_to_the_screens_range(low: float) -> None:
    image = torch.rand(1, 3, 8, 8) * 4 + low
    (shown,) = pictures_of(plot_example(image, torch.rand(1, 1, 8, 8), "cam", 0))
    assert shown.min() == 0
    assert shown.max() == 1
    expected = (image - image.min()) / (image.max() - image.min())
    np.testing.assert_allclose(shown, expected[0].permute(1, 2, 0), atol=1e-6)


def test_a_picture_of_one_colour_out_of_range_can_be_drawn() -> None:
    (shown,) = pictures_of(
        plot_example(torch.full((1, 3, 8, 8), -2.0), torch.rand(1, 1, 8, 8), "cam", 0)
    )
    assert np.isfinite(shown).all()


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_pictures_that_are_not_rgb_are_grey(channels: int) -> None:
    image = torch.rand(1, channels, 8, 8)
    (shown,) = pictures_of(plot_example(image, torch.rand(1, 1, 8, 8), "cam", 0))
    for channel in range(3):
        np.testing.assert_allclose(shown[..., channel], image[0].mean(0), atol=1e-6)


def test_several_masks_of_one_picture() -> None:
    image, masks = torch.rand(1, 3, 16, 16), torch.rand(3, 1, 16, 16)
    figure = plot_example(image, masks, "extremal perturbation", 7)
    assert titles_of(figure) == ["extremal perturbation, category 7"] * 3
    assert len(pictures_of(figure)) == len(maps_of(figure)) == 3


def test_categories_may_be_a_tensor_and_maps_may_need_a_gradient() -> None:
    saliency = torch.rand(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    figure = plot_example(
        torch.rand(2, 3, 8, 8, requires_grad=True), saliency, "cam", torch.tensor([1, 2])
    )
    assert titles_of(figure) == ["cam, category 1", "cam, category 2"]


IMAGE, MAP = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8)


@pytest.mark.parametrize(
    ("image", "saliency", "category", "came"),
    [
        (IMAGE, MAP[0], 0, r"maps of shape \(N, 1, h, w\), got \(1, 8, 8\)"),
        (IMAGE, torch.rand(2, 3, 8, 8), 0, r"maps of shape .* got \(2, 3, 8, 8\)"),
        (IMAGE, MAP[:0], 0, r"maps of shape .* got \(0, 1, 8, 8\)"),
        (IMAGE, MAP.numpy(), 0, "maps of shape .* got ndarray"),
        (IMAGE[0], MAP, 0, r"picture .* got \(3, 8, 8\)"),
        (torch.rand(3, 3, 8, 8), MAP, 0, r"each of the 2 maps, .* got \(3, 3, 8, 8\)"),
        (None, MAP, 0, "picture .* got NoneType"),
        (IMAGE, MAP, [1, 2, 3], r"one category or one for each of the 2 maps, got \[1, 2, 3\]"),
        (IMAGE, MAP, [], r"one category or one for each of the 2 maps, got \[\]"),
    ],
)
def test_shapes_that_do_not_fit(image: Any, saliency: Any, category: Any, came: str) -> None:
    with pytest.raises(InputError, match=f"^Expected .*{came}"):
        plot_example(image, saliency, "cam", category)
