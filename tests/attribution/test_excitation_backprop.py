"""Excitation backprop against a loop from the paper, against TorchRay, and its conservation."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
import torchvision
from tiny_models import make_images, make_model
from torch import Tensor, nn
from torchray.attribution import excitation_backprop as ray

from lightning_saliency.attribution import ContrastiveExcitationBackprop, ExcitationBackprop
from lightning_saliency.attribution.excitation_backprop import (
    contrastive_excitation_backprop,
    contrastive_excitation_map,
    excitation_backprop,
    excitation_map,
)
from lightning_saliency.errors import (
    LayerError,
    ModelError,
    NoGradientError,
    SaliencyWarning,
)

TARGETS = [3, 5]
# A layer in the middle, and one near the end that is not followed by an in-place operation, which
# TorchRay cannot look at.
NETWORKS = {
    "alexnet": ("features.7", "classifier.5"),
    "vgg11_bn": ("features.14", "classifier.4"),
    "squeezenet1_1": ("features.7", "features.12"),
    "googlenet": ("inception4a", "avgpool"),
    "densenet121": ("features.transition2", "features.denseblock4"),
    "resnet18": ("layer2", "avgpool"),
}


@cache
def network(name: str) -> nn.Module:
    settings = {"init_weights": False} if name == "googlenet" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = getattr(torchvision.models, name)(weights=None, **settings)
    return model.eval()


def reference(name: str) -> nn.Module:
    """A copy for TorchRay, which must edit a ResNet before it is right on it."""
    model = copy.deepcopy(network(name))
    if name == "resnet18":
        ray.update_resnet(model, debug=False)
    return model


def images() -> Tensor:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs.detach()).abs().max() / theirs.detach().abs().max())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("where", ["image", "layer"])
def test_it_equals_torchray(name: str, where: str) -> None:
    layer = NETWORKS[name][0] if where == "layer" else ""
    wanted = ray.excitation_backprop(reference(name), images(), TARGETS, saliency_layer=layer)
    found = excitation_backprop(network(name), images(), TARGETS, saliency_layer=layer)
    assert difference(found, wanted) < 1e-5
    assert found.sum((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_contrastive_form_equals_torchray(name: str) -> None:
    layer, contrast = NETWORKS[name]
    settings: dict[str, Any] = {"saliency_layer": layer, "contrast_layer": contrast}
    wanted = ray.contrastive_excitation_backprop(reference(name), images(), TARGETS, **settings)
    found = contrastive_excitation_backprop(network(name), images(), TARGETS, **settings)
    assert difference(found, wanted) < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torchray_is_wrong_on_a_resnet_as_it_is() -> None:
    # Its rules do not know the residual addition, so the signal multiplies.
    wrong = ray.excitation_backprop(
        copy.deepcopy(network("resnet18")), images(), TARGETS, saliency_layer="layer1"
    )
    assert wrong.sum((1, 2, 3)).min() > 10
    right = excitation_backprop(network("resnet18"), images(), TARGETS, saliency_layer="layer1")
    assert right.sum((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-4)


def handed_down(signal: list[float], values: list[float], weight: list[list[float]]) -> list[float]:
    """Equation 4 of the paper: from units to the units below, in proportion to a_j max(w_ij, 0)."""
    below = [0.0] * len(values)
    for unit, row in zip(signal, weight, strict=True):
        shares = [value * max(w, 0.0) for value, w in zip(values, row, strict=True)]
        total = sum(shares)
        if total != 0:
            for place, share in enumerate(shares):
                below[place] += unit * share / total
    return below


def test_it_is_the_papers_loop_over_a_chain_of_layers() -> None:
    torch.manual_seed(1)
    weights = [torch.randn(6, 4), torch.randn(5, 6), torch.randn(3, 5)]
    biases = [torch.randn(6), torch.randn(5), torch.randn(3)]
    image = torch.rand(1, 1, 2, 2).double()
    values = [image.flatten()]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        values.append((weight.double() @ values[-1] + bias.double()).clamp(min=0))
    signal = [0.0, 1.0, 0.0]
    for weight, value in zip(reversed(weights), reversed(values), strict=True):
        signal = handed_down(signal, value.tolist(), weight.double().tolist())
    layers: list[nn.Module] = [nn.Flatten()]
    for weight, bias in zip(weights, biases, strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        layers += [linear, nn.ReLU(inplace=True)]
    model = nn.Sequential(*layers[:-1]).double()
    found = ExcitationBackprop()(model, image, 1).flatten().tolist()
    assert found == pytest.approx(signal, abs=1e-12)
    assert sum(found) == pytest.approx(1)


def test_a_residual_addition_splits_in_proportion() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Identity(), nn.Identity()
            self.head = nn.Linear(1, 1, bias=False)
            with torch.no_grad():
                self.head.weight.fill_(2.0)

        def forward(self, x: Tensor) -> Tensor:
            joined = self.left(3 * x)
            joined += self.right(x[:, :, :, :])
            return self.head(joined.mean((2, 3)))

    image = torch.tensor([[1.0, 3.0]]).view(1, 1, 1, 2)
    model = Branches()
    left = excitation_backprop(model, image, 1, saliency_layer="left")
    right = excitation_backprop(model, image, 1, saliency_layer="right")
    # Three quarters pass through the left, and of each the place with 3 gets three quarters.
    assert left.flatten().tolist() == pytest.approx([0.75 / 4, 0.75 * 3 / 4])
    assert right.flatten().tolist() == pytest.approx([0.25 / 4, 0.25 * 3 / 4])


def test_concatenated_branches_get_their_shares() -> None:
    class Concatenated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Identity(), nn.Identity()
            self.head = nn.Linear(2, 3, bias=False)
            with torch.no_grad():
                self.head.weight.copy_(torch.tensor([[1.0, 4.0], [1.0, -1.0], [-1.0, 1.0]]))

        def forward(self, x: Tensor) -> Tensor:
            joined = torch.cat([self.left(2 * x), self.right(1 * x)], 1)
            return self.head(joined.mean((2, 3)))

    image = torch.ones(1, 1, 1, 1)
    for target, share in ((0, 2 / 6), (1, 1.0), (2, 0.0)):
        found = excitation_backprop(Concatenated(), image, target, saliency_layer="left")
        assert found.item() == pytest.approx(share)


@pytest.mark.parametrize("kind", ["vgg", "residual", "functional"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_maps_sum_to_1(kind: str, dtype: torch.dtype) -> None:
    model = make_model(kind, dtype=dtype)
    layer = "features" if kind != "functional" else "stem"
    found = ExcitationBackprop(layer, resize=False)(model, make_images(dtype=dtype), "predicted")
    close = 2e-2 if dtype == torch.bfloat16 else 1e-5
    assert found.sum((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=close)


def test_a_function_without_a_rule_is_warned_of() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.conv(x))
            return self.head((x * x.mean((2, 3), keepdim=True)).mean((2, 3)))

    torch.manual_seed(0)
    with pytest.warns(SaliencyWarning, match="sum to 1, got a sum of"):
        ExcitationBackprop()(Gated(), make_images(), 0)


def test_activations_that_can_be_negative_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.LazyLinear(2))
    model(make_images())
    with pytest.raises(ModelError, match="silu"):
        ExcitationBackprop()(model, make_images(), 0)


def test_the_contrast_can_be_left_to_the_method() -> None:
    model = make_model("vgg")
    found = ContrastiveExcitationBackprop("features")(model, make_images(), [0, 1])
    named = ContrastiveExcitationBackprop("features", classifier_layer="head")
    assert torch.equal(found, named(model, make_images(), [0, 1]))
    assert (found >= 0).all()
    assert not torch.equal(found[0], found[1])


def test_layers_in_the_wrong_order_are_named() -> None:
    model = make_model("vgg")
    with pytest.raises(LayerError, match="Swap saliency_layer and contrast_layer"):
        ContrastiveExcitationBackprop("hidden.3", "features.2")(model, make_images(), 0)


def test_a_contrast_layer_that_the_score_does_not_need_is_named() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.aside, self.head = (
                nn.Conv2d(3, 4, 3),
                nn.Conv2d(3, 4, 3),
                nn.Linear(4, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            self.aside(x)
            return self.head(torch.relu(self.conv(x)).mean((2, 3)))

    with pytest.raises(NoGradientError, match="contrast_layer 'aside'"):
        ContrastiveExcitationBackprop("", "aside")(Unused(), make_images(), 0)


def test_the_formulas() -> None:
    signal = torch.tensor([1.0, 2.0, -3.0, 0.5]).view(1, 2, 1, 2)
    assert excitation_map(signal).flatten().tolist() == [-2.0, 2.5]
    assert contrastive_excitation_map(signal).flatten().tolist() == [0.0, 2.5]


def test_class_0_of_one_unit_is_the_dual_unit() -> None:
    two = make_model("vgg")
    one = copy.deepcopy(two)
    one.head = nn.Linear(12, 1)
    two.head = nn.Linear(12, 2)
    with torch.no_grad():
        two.head.weight.copy_(torch.cat([-one.head.weight, one.head.weight]))
        two.head.bias.copy_(torch.cat([-one.head.bias, one.head.bias]))
    images = make_images(3)
    for target in ([0, 1, 0], [1, 1, 0]):
        wanted = excitation_backprop(two, images, target, "features")
        torch.testing.assert_close(excitation_backprop(one, images, target, "features"), wanted)
        assert wanted.min() >= 0
