"""All methods in one picture, as it is seen on a card of TensorBoard."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency.rendering import ColorScale, heatmap, methods_picture, overlay
from lightning_saliency.rendering.canvas import text_width
from lightning_saliency.rendering.methods import _head

CARD = 337


def drawn(methods: list[str], side: int = 96, samples: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(samples, 3, side, side, generator=generator)
    heat = heatmap(torch.rand(samples, 1, side, side, generator=generator), ColorScale())
    heats, laid = dict.fromkeys(methods, heat), dict.fromkeys(methods, overlay(images, heat))
    return methods_picture(images, heats, laid, [f"{i}: class {i}" for i in range(samples)])


@pytest.mark.parametrize("side", [28, 32, 64, 96, 224])
def test_few_methods_fill_the_card_and_are_hardly_reduced(side: int) -> None:
    for methods in (["grad_cam"], ["gradient", "grad_cam"], ["gradient", "grad_cam", "rise"]):
        picture = drawn(methods, side)
        scale = CARD / picture.shape[2]
        assert scale > 0.75
        # Text of fewer pixels was not legible there.
        assert 14 * scale > 10


@pytest.mark.parametrize("name", ["input", "epoch 12", "gradient", "grad_cam", "rise", "attn_lrp"])
def test_short_names_stand_in_one_line(name: str) -> None:
    assert _head(name, 80) == [name]


@pytest.mark.parametrize("wide", [48, 56, 80])
def test_long_names_stand_within_their_column(wide: int) -> None:
    for line in _head("contrastive_excitation_backprop", wide):
        assert text_width(line, 14, bold=True) <= wide
