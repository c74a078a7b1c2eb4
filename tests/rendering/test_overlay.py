import pytest
import torch

from lightning_saliency.errors import InputError
from lightning_saliency.rendering import ColorScale, heatmap, overlay
from lightning_saliency.rendering.colors import ramp_colors

UNIT = ColorScale("value", full=1.0)


def test_where_the_map_is_zero_the_image_is_gray() -> None:
    image = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    laid = overlay(image, heatmap(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), UNIT))
    luma = 0.299 * 1.0 + 0.587 * 0.5
    gray = 0.2 + 0.6 * luma
    assert laid[0, :, 0, 0].tolist() == pytest.approx([gray] * 3)


@pytest.mark.parametrize(("value", "opacity"), [(1.0, 0.85), (0.25, 0.55), (-0.25, 0.55)])
def test_a_color_lies_over_the_image_as_far_as_it_is_opaque(value: float, opacity: float) -> None:
    image = torch.full((1, 3, 1, 2), 0.4)
    laid = overlay(image, heatmap(torch.tensor([0.0, value]).view(1, 1, 1, 2), UNIT, signed=True))
    color = ramp_colors(torch.full((1, 1, 1, 1), value)).flatten()
    gray = 0.2 + 0.6 * 0.4
    torch.testing.assert_close(laid[0, :, 0, 1], gray + opacity * (color - gray))


def test_a_hatched_map_covers_its_image() -> None:
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    maps = torch.zeros(2, 1, 16, 16)
    maps[1, 0, 2, 2] = 1
    heat = heatmap(maps, UNIT)
    laid = overlay(image, heat)
    assert torch.equal(laid[0], heat.color[0])
    assert not torch.equal(laid[1], heat.color[1])


def test_a_smaller_map_is_enlarged_without_blurring() -> None:
    heat = heatmap(torch.tensor([[0.0, 1.0], [0.5, 0.25]]).view(1, 1, 2, 2), UNIT)
    laid = overlay(torch.zeros(1, 3, 6, 6), heat)
    assert laid.shape == (1, 3, 6, 6)
    for row in range(2):
        for column in range(2):
            block = laid[0, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            assert len(block.flatten(1).unique(dim=1)[0]) == 1


def test_result_is_a_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 3, 8, 8, generator=generator, requires_grad=True)
    saliency = torch.randn(3, 1, 8, 8, generator=generator)
    laid = overlay(image, heatmap(saliency, ColorScale(), signed=True))
    assert laid.dtype == torch.float32
    assert not laid.requires_grad
    assert float(laid.min()) >= 0
    assert float(laid.max()) <= 1


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 1, 4, 4), (3, 4, 4)])
def test_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    heat = heatmap(torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), UNIT)
    with pytest.raises(InputError, match=r"\(2, 3, H, W\)"):
        overlay(torch.zeros(shape), heat)
