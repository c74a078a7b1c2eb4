"""Code written for TorchRay runs with the name of the package changed, and finds the digits.

Every call has the names, the order and the layers of the usage examples in TorchRay's manual.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_saliency.attribution.deconvnet import deconvnet
from lightning_saliency.attribution.excitation_backprop import (
    contrastive_excitation_backprop,
    excitation_backprop,
)
from lightning_saliency.attribution.extremal_perturbation import (
    contrastive_reward,
    extremal_perturbation,
)
from lightning_saliency.attribution.grad_cam import grad_cam
from lightning_saliency.attribution.gradient import gradient
from lightning_saliency.attribution.guided_backprop import guided_backprop
from lightning_saliency.attribution.linear_approx import linear_approx
from lightning_saliency.attribution.rise import rise
from lightning_saliency.benchmark import get_example_data, get_example_regions, plot_example
from lightning_saliency.utils import get_device

Example: TypeAlias = tuple[nn.Module, Tensor, int, int]


@pytest.fixture(scope="module")
def example() -> Example:
    model, x, category_id_1, category_id_2 = get_example_data()
    device = get_device()
    model.to(device)
    return model, x.to(device), category_id_1, category_id_2


def share_on(saliency: Tensor, which: int) -> float:
    """Return how much of what a map has on the two digits lies on that one, from 0 to 1."""
    regions = get_example_regions().float()
    size = regions.shape[-2:]
    heat = F.interpolate(saliency.detach().cpu().clamp(min=0), size, mode="bilinear")
    on_each = (heat * regions).sum((1, 2, 3))
    return float(on_each[which] / on_each.sum())


def check_maps(
    example: Example,
    explain: Callable[[int], Tensor],
    method: str,
    folder: Path,
    size: tuple[int, int],
    least: float,
) -> None:
    """Explain and plot both categories; ``least`` is the share on the right digit."""
    _, x, *categories = example
    shares = []
    for which, category in enumerate(categories):
        saliency = explain(category)
        assert saliency.shape == (1, 1, *size)
        assert saliency.isfinite().all()
        assert saliency.any()
        path = folder / f"{category}.png"
        plot_example(x, saliency, method, category, save_path=path)
        assert path.read_bytes().startswith(b"\x89PNG")
        shares.append(share_on(saliency, which))
    print(f"{method}: on the right digit {shares[0]:.3f} and {shares[1]:.3f}")
    assert min(shares) > least


@pytest.mark.parametrize(
    ("method", "least"),
    [(gradient, 0.5), (deconvnet, 0.55), (guided_backprop, 0.65)],
    ids=["gradient", "deconvnet", "guided_backprop"],
)
def test_maps_of_the_image(
    example: Example, tmp_path: Path, method: Callable[..., Tensor], least: float
) -> None:
    model, x, *_ = example

    def explain(category_id: int) -> Tensor:
        return method(model, x, category_id)

    check_maps(example, explain, method.__name__, tmp_path, (128, 128), least)


@pytest.mark.parametrize("method", [grad_cam, linear_approx], ids=["grad_cam", "linear_approx"])
def test_maps_of_the_last_layer(
    example: Example, tmp_path: Path, method: Callable[..., Tensor]
) -> None:
    model, x, *_ = example

    def explain(category_id: int) -> Tensor:
        return method(model, x, category_id, saliency_layer="features.29")

    check_maps(example, explain, method.__name__, tmp_path, (8, 8), 0.95)


def test_excitation_backprop(example: Example, tmp_path: Path) -> None:
    model, x, *_ = example

    def explain(category_id: int) -> Tensor:
        return excitation_backprop(model, x, category_id, saliency_layer="features.9")

    check_maps(example, explain, "excitation backprop", tmp_path, (32, 32), 0.6)


def test_contrastive_excitation_backprop(example: Example, tmp_path: Path) -> None:
    model, x, *_ = example

    def explain(category_id: int) -> Tensor:
        return contrastive_excitation_backprop(
            model,
            x,
            category_id,
            saliency_layer="features.9",
            contrast_layer="classifier.4",
        )

    check_maps(example, explain, "contrastive excitation", tmp_path, (32, 32), 0.95)


@pytest.mark.slow
def test_rise(example: Example, tmp_path: Path) -> None:
    model, x, *_ = example
    saliency = rise(model, x, num_masks=256)
    assert saliency.shape == (1, 10, 128, 128)

    def explain(category_id: int) -> Tensor:
        return saliency[:, category_id].unsqueeze(0)

    check_maps(example, explain, "RISE", tmp_path, (128, 128), 0.7)


def test_extremal_perturbation(example: Example, tmp_path: Path) -> None:
    model, x, *_ = example

    def explain(category_id: int) -> Tensor:
        masks, _ = extremal_perturbation(
            model, x, category_id, reward_func=contrastive_reward, debug=True, areas=[0.12]
        )
        return masks

    check_maps(example, explain, "extremal perturbation", tmp_path, (128, 128), 0.9)


def test_the_model_comes_out_as_it_went_in(example: Example) -> None:
    model, *_ = example
    untouched: Any = get_example_data()[0]
    assert all(
        torch.equal(a.cpu(), b)
        for a, b in zip(model.parameters(), untouched.parameters(), strict=True)
    )
    assert all(parameter.grad is None for parameter in model.parameters())
