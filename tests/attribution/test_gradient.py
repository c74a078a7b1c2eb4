import copy
from typing import Any

import pytest
import torch
from captum.attr import Saliency
from tiny_models import MODELS, make_images, make_model
from torch import Tensor, nn
from torchvision import models

from lightning_saliency.attribution.gradient import Gradient, gradient, gradient_map
from lightning_saliency.errors import LayerError
from lightning_saliency.network.layers import capture

pytestmark = pytest.mark.filterwarnings("ignore:open_text is deprecated:DeprecationWarning")


def test_map_by_hand() -> None:
    derivatives = torch.tensor([[[[1.0, -2.0]], [[-3.0, 0.5]], [[2.0, 0.0]]]])
    assert gradient_map(derivatives).tolist() == [[[[3.0, 2.0]]]]


def test_linear_model() -> None:
    # The derivative of a linear score is its weights, whatever the image.
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 2))
    weights = model[1].weight.detach().reshape(2, 3, 4, 5)
    wanted = torch.stack([weights[1].abs().amax(0), weights[0].abs().amax(0)])[:, None]
    assert torch.equal(gradient(model, torch.randn(2, 3, 4, 5), [1, 0]), wanted)


def test_against_differences_in_every_pixel() -> None:
    # The score is piecewise linear, so small differences are the derivative but at its edges.
    model = make_model(dtype=torch.float64)
    image = make_images(1, (8, 8), dtype=torch.float64)
    saliency = gradient(model, image, 3)
    wanted = torch.zeros(3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        for place in torch.cartesian_prod(*map(torch.arange, (3, 8, 8))).tolist():
            step = torch.zeros_like(image)
            step[(0, *place)] = 1e-7
            wanted[tuple(place)] = (model(image + step) - model(image - step))[0, 3] / 2e-7
    torch.testing.assert_close(saliency[0, 0], wanted.abs().amax(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", MODELS)
def test_captum_agrees(kind: str) -> None:
    model, images = make_model(kind), make_images(3)
    target = torch.tensor([1, 4, 0])
    reference = Saliency(copy.deepcopy(model)).attribute(images.clone().requires_grad_(), target)
    torch.testing.assert_close(gradient(model, images, target), reference.amax(1, keepdim=True))


def make_torchvision(name: str) -> nn.Module:
    torch.manual_seed(0)
    return getattr(models, name)(weights=None).eval()


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1", "resnet18"])
@pytest.mark.parametrize("settings", [{}, {"smooth": 0.02}, {"resize": (25, 25)}], ids=str)
def test_torchray_agrees(name: str, settings: dict[str, Any]) -> None:
    reference = pytest.importorskip("torchray.attribution.gradient").gradient
    model, images = make_torchvision(name), torch.randn(2, 3, 64, 80)
    target = torch.tensor([7, 300])
    saliency = gradient(model, images, target, **settings)
    wanted = reference(copy.deepcopy(model), images.clone(), target, **settings)
    difference = (saliency - wanted).norm() / wanted.norm()
    assert difference < 1e-5


def test_with_respect_to_a_layer() -> None:
    model, images = make_model(), make_images()
    with capture(model, "features.4") as caught:
        score = model(images)[:, 2].sum()
    (derivative,) = torch.autograd.grad(score, caught.activation)
    saliency = gradient(model, images, 2, saliency_layer="features.4")
    assert saliency.shape == (2, 1, 8, 10)
    torch.testing.assert_close(saliency, derivative.abs().amax(1, keepdim=True))
    assert Gradient("features.4")(model, images, 2).shape == (2, 1, 16, 20)


def test_function_is_the_object_without_resizing() -> None:
    model, images = make_model(), make_images()
    cases: list[dict[str, Any]] = [
        {},
        {"saliency_layer": "features"},
        {"resize": (4, 4), "smooth": 0.1},
    ]
    for settings in cases:
        wanted = Gradient(**{"resize": False, **settings})(model, images, 1)
        assert torch.equal(gradient(model, images, 1, **settings), wanted)


def test_vector_layer() -> None:
    with pytest.raises(LayerError, match=r"\(N, K, h, w\).*\(2, 5\)"):
        gradient(make_model(), make_images(), 1, saliency_layer="head")


def test_token_layer() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 6, 4, stride=4)
            self.norm = nn.LayerNorm(6)
            self.head = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.patches(x).flatten(2).transpose(1, 2))
            return self.head(x.square().mean(1))

    model, images = Tokens(), make_images(2, (16, 20))
    assert gradient(model, images, 1, saliency_layer="norm").shape == (2, 1, 4, 5)
