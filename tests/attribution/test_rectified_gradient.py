"""Gradient, DeconvNet, guided backprop, linear approximation against independent code."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torchvision
from captum.attr import Deconvolution, LayerGradientXActivation
from captum.attr import GuidedBackprop as CaptumGuided
from torch import Tensor, nn
from torchray.attribution import deconvnet as ray_deconvnet
from torchray.attribution import gradient as ray_gradient
from torchray.attribution import guided_backprop as ray_guided
from torchray.attribution import linear_approx as ray_linear

from lightning_saliency.attribution.deconvnet import deconvnet
from lightning_saliency.attribution.excitation_backprop import excitation_backprop
from lightning_saliency.attribution.gradient import gradient
from lightning_saliency.attribution.guided_backprop import GuidedBackprop, guided_backprop
from lightning_saliency.attribution.linear_approx import linear_approx, linear_approx_map
from lightning_saliency.errors import ModelError, NothingReplacedError

# Networks of different building blocks, and a layer in the middle of each.
NETWORKS = {
    "alexnet": "features.7",
    "vgg11_bn": "features.14",
    "squeezenet1_1": "features.7",
    "googlenet": "inception4a",
    "densenet121": "features.transition2",
    "resnet18": "layer2",
}
TARGETS = [3, 5]


@cache
def network(name: str) -> nn.Module:
    """Made once: most of the time would go into random weights. References get a copy."""
    settings = {"init_weights": False} if name == "googlenet" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = getattr(torchvision.models, name)(weights=None, **settings)
    return model.eval()


def images(size: int = 96) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs.detach()).abs().max() / theirs.detach().abs().max())


Pair = tuple[Callable[..., Tensor], Callable[..., Tensor]]
RAY: dict[str, Pair] = {
    "gradient": (gradient, ray_gradient.gradient),
    "deconvnet": (deconvnet, ray_deconvnet.deconvnet),
    "guided_backprop": (guided_backprop, ray_guided.guided_backprop),
    "linear_approx": (linear_approx, ray_linear.linear_approx),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("method", "where"),
    [
        *((method, "layer") for method in RAY),
        # Our linear approximation chooses a layer where none is named.
        *((method, "image") for method in RAY if method != "linear_approx"),
    ],
)
def test_it_equals_torchray(name: str, method: str, where: str) -> None:
    layer = NETWORKS[name] if where == "layer" else ""
    ours, theirs = RAY[method]
    model = network(name)
    wanted = theirs(copy.deepcopy(model), images(), TARGETS, saliency_layer=layer)
    assert difference(ours(model, images(), TARGETS, saliency_layer=layer), wanted) < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn", "squeezenet1_1"])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(deconvnet, Deconvolution), (guided_backprop, CaptumGuided)]
)
def test_it_equals_captum_where_every_relu_is_a_module(
    name: str, ours: Callable[..., Tensor], theirs: type[Any]
) -> None:
    model = network(name)
    wanted = theirs(copy.deepcopy(model)).attribute(images().requires_grad_(), TARGETS)
    assert difference(ours(model, images(), TARGETS), wanted.abs().amax(1, keepdim=True)) < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_captum_gives_the_plain_gradient_where_relu_is_a_function_and_we_do_not() -> None:
    model = network("googlenet")
    theirs = CaptumGuided(copy.deepcopy(model)).attribute(images().requires_grad_(), TARGETS)
    plain = gradient(model, images(), TARGETS)
    assert difference(plain, theirs.abs().amax(1, keepdim=True)) < 1e-5
    assert difference(guided_backprop(model, images(), TARGETS), plain) > 0.1


@pytest.mark.filterwarnings("ignore:.*should not be instantiated.*:DeprecationWarning")
def test_torchray_misses_the_method_of_a_tensor_and_we_do_not() -> None:
    class Method(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[2](self[1](self[0](x).relu()).relu().mean((2, 3)))

    torch.manual_seed(0)
    model = Method(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4))
    module = nn.Sequential(
        model[0], nn.ReLU(), model[1], nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model[2]
    )
    image = images(12)
    wanted = ray_guided.guided_backprop(module, image.clone(), [1, 2])
    assert difference(guided_backprop(model, image, [1, 2]), wanted) < 1e-5
    assert difference(ray_guided.guided_backprop(model, image.clone(), [1, 2]), wanted) > 0.1


@pytest.mark.parametrize("method", [guided_backprop, deconvnet])
def test_a_loop_over_the_layers(method: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(6, 4).double(), torch.randn(5, 6).double(), torch.randn(3, 5).double()]
    image = torch.randn(1, 1, 2, 2).double()
    values = [image.flatten()]
    for weight in weights[:-1]:
        values.append((weight @ values[-1]).clamp(min=0))
    signal = [float(v) for v in weights[-1][1]]
    for weight, value in zip(reversed(weights[:-1]), reversed(values[1:]), strict=True):
        # DeconvNet does not look at what was active on the way up.
        passed = [
            s if s > 0 and (v > 0 or method is deconvnet) else 0.0
            for s, v in zip(signal, value, strict=True)
        ]
        signal = [
            sum(p * float(row[column]) for p, row in zip(passed, weight, strict=True))
            for column in range(weight.shape[1])
        ]
    model = nn.Sequential(nn.Flatten(), *(nn.Linear(w.shape[1], w.shape[0]) for w in weights))
    layers = list(model)
    model = nn.Sequential(*layers[:2], nn.ReLU(), layers[2], nn.ReLU(True), layers[3]).double()
    with torch.no_grad():
        for layer, weight in zip(layers[1:], weights, strict=True):
            layer.weight.copy_(weight)
            layer.bias.zero_()
    found = method(model, image, 1).flatten()
    assert torch.allclose(found, torch.tensor(signal, dtype=torch.float64).abs())


def test_the_linear_map_sums_to_the_score_of_a_linear_end() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(True), nn.Flatten(), nn.Linear(6 * 64, 4, bias=False)
    )
    image = images(10)
    saliency = linear_approx(model, image, [0, 3], saliency_layer="1")
    scores = model(image).gather(1, torch.tensor([[0], [3]]))
    assert torch.allclose(saliency.sum((1, 2, 3)), scores[:, 0], atol=1e-5)
    assert (saliency < 0).any()


def test_the_linear_map_equals_captums() -> None:
    model = network("alexnet")
    # Behind the in-place ReLU, because captum's hook would see what that writes.
    layer = dict(model.named_modules())["features.5"]
    found = LayerGradientXActivation(model, layer).attribute(images(), TARGETS)
    assert (
        difference(
            linear_approx(model, images(), TARGETS, "features.5"), found.sum(1, keepdim=True)
        )
        < 1e-5
    )


def test_the_formula_of_linear_approximation() -> None:
    activation = torch.tensor([1.0, 2.0, -1.0, 3.0]).view(1, 2, 1, 2)
    slope = torch.tensor([2.0, 0.0, 1.0, -1.0]).view(1, 2, 1, 2)
    assert linear_approx_map(activation, slope).flatten().tolist() == [1.0, -3.0]


@pytest.mark.parametrize("name", ["convnext_tiny", "efficientnet_b0", "mobilenet_v3_small"])
@pytest.mark.parametrize("method", [guided_backprop, deconvnet, excitation_backprop])
def test_networks_with_other_activations_are_refused(
    name: str, method: Callable[..., Tensor]
) -> None:
    with pytest.raises(ModelError, match=r"gelu|silu|hardswish"):
        method(network(name), images(64), TARGETS)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("method", [guided_backprop, deconvnet, excitation_backprop])
def test_transformers_are_refused(method: Callable[..., Tensor]) -> None:
    vit = torchvision.models.VisionTransformer(16, 8, 2, 2, 8, 16, num_classes=6)
    swin = torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=6)
    for model in (vit, swin):
        with pytest.raises(ModelError, match=r"gelu \(called"):
            method(model, images(16), TARGETS)


class _Guide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 6)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * ((x > 0) & (x < 6)) * (gradient > 0)


class _GuidedReLU6(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Guide.apply(x)
        return result


def test_relu6_is_guided_like_relu() -> None:
    model = network("mobilenet_v2")
    guided = copy.deepcopy(model)
    for block in list(guided.modules()):
        for name, child in block.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(block, name, _GuidedReLU6())
    image = images(64).requires_grad_()
    scores = guided(image).gather(1, torch.tensor(TARGETS)[:, None]).sum()
    (wanted,) = torch.autograd.grad(scores, image)
    found = guided_backprop(model, images(64), TARGETS)
    assert difference(found, wanted.abs().amax(1, keepdim=True)) < 1e-5
    assert difference(gradient(model, images(64), TARGETS), found) > 0.1


def test_a_network_without_relu_is_refused_before_training() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(NothingReplacedError, match="plain gradient"):
        GuidedBackprop().prepare(model, images(2))
