"""Excitation backprop against a loop from the paper, against TorchRay, and its conservation."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
import torchvision
from tally import Tally
from tiny_models import make_images, make_model
from torch import Tensor, nn
from torch.autograd.graph import Node
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
from lightning_saliency.network.excitation_functions import SplitSum
from lightning_saliency.network.excitation_graph import nodes_below, record_excitation

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
    # Where an image is negative TorchRay's maps can be too; ours go on by another rule there.
    layer, seen = (NETWORKS[name][0], images()) if where == "layer" else ("", images().abs())
    wanted = ray.excitation_backprop(reference(name), seen, TARGETS, saliency_layer=layer)
    found = excitation_backprop(network(name), seen, TARGETS, saliency_layer=layer)
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
def test_torchray_subtracts_only_what_passes_through_the_contrast_layer() -> None:
    # Around one branch of the last block goes most of the signal. TorchRay lets that part through
    # as it is, so its map is mostly the one without contrast; the paper's is a difference of two
    # signals of 1, wherever it is formed.
    model, layer = network("googlenet"), "inception4a"
    wanted = contrastive_excitation_backprop(model, images(), TARGETS, layer, "inception5b")
    found = contrastive_excitation_backprop(model, images(), TARGETS, layer, "inception5b.branch2")
    assert torch.equal(found, wanted)
    mixed = ray.contrastive_excitation_backprop(
        copy.deepcopy(model), images(), TARGETS, layer, "inception5b.branch2"
    )
    passing = excitation_backprop(model, images(), TARGETS, "inception5b.branch2").sum((1, 2, 3))
    assert mixed.sum((1, 2, 3)).tolist() == pytest.approx((1 - passing).tolist(), abs=0.02)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("last", [nn.ReLU(), nn.Identity()], ids=["rectified", "signed"])
def test_a_convolution_as_classifier_is_as_in_torchray(last: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.Conv2d(8, 6, 1), last, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ).double()
    image = images()[:, :, :10, :12].double().abs()
    wanted = ray.excitation_backprop(copy.deepcopy(model), image.clone(), TARGETS)
    assert difference(excitation_backprop(model, image, TARGETS), wanted) < 1e-9
    settings: dict[str, Any] = {"saliency_layer": "1", "contrast_layer": "3"}
    wanted = ray.contrastive_excitation_backprop(
        copy.deepcopy(model), image.clone(), TARGETS, classifier_layer="4", **settings
    )
    found = contrastive_excitation_backprop(model, image, TARGETS, **settings)
    assert difference(found, wanted) < 1e-9


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


def test_it_is_the_papers_loop_over_a_convolutional_network() -> None:
    torch.manual_seed(3)
    first, second, head = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3), nn.Linear(16, 3)
    body = [first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.Flatten(), head]
    model = nn.Sequential(*body).double()
    image = torch.rand(1, 2, 8, 8).double()
    with torch.no_grad():
        active = model[1](model[0](image))
        pooled, winners = nn.functional.max_pool2d(active, 2, return_indices=True)
        top = model[4](model[3](pooled)).flatten()
    signal = handed_down([0.0, 0.0, 1.0], top.tolist(), head.weight.tolist())
    at_pooled = convolved_down(signal, pooled, second.weight.detach(), padding=0)
    at_active = [0.0] * active.numel()
    per_channel = active[0, 0].numel()
    for place, winner in enumerate(winners.flatten().tolist()):
        channel = place // pooled[0, 0].numel()
        at_active[channel * per_channel + winner] += at_pooled[place]
    found = excitation_backprop(model, image, 2, saliency_layer="1")
    wanted = torch.tensor(at_active, dtype=torch.float64).view_as(active).sum(1, keepdim=True)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    at_image = convolved_down(at_active, image, first.weight.detach(), padding=1)
    wanted = torch.tensor(at_image, dtype=torch.float64).view_as(image).sum(1, keepdim=True)
    torch.testing.assert_close(excitation_backprop(model, image, 2), wanted, rtol=1e-9, atol=1e-12)


def convolved_down(
    signal: list[float], values: Tensor, weight: Tensor, padding: int
) -> list[float]:
    """The paper's sum for the units of a convolution, one window at a time."""
    _, channels, height, width = values.shape
    outputs, _, size, _ = weight.shape
    rows, columns = height + 2 * padding - size + 1, width + 2 * padding - size + 1
    below = torch.zeros(channels, height, width, dtype=torch.float64)
    for unit, top in enumerate(signal):
        output, place = divmod(unit, rows * columns)
        row, column = divmod(place, columns)
        shares = {}
        for c in range(channels):
            for i in range(size):
                for j in range(size):
                    y, x = row + i - padding, column + j - padding
                    if 0 <= y < height and 0 <= x < width:
                        w = max(float(weight[output, c, i, j]), 0.0)
                        shares[c, y, x] = float(values[0, c, y, x]) * w
        total = sum(shares.values())
        for at, share in shares.items():
            below[at] += top * share / total if total else 0.0
    assert len(signal) == outputs * rows * columns
    return below.flatten().tolist()


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


def test_products_of_activations_are_refused_or_warned_of() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.conv(x))
            return self.head((x * x.mean((2, 3), keepdim=True)).mean((2, 3)))

    torch.manual_seed(0)
    with pytest.raises(ModelError, match=r"products of two activations.*by mul.*AttnLRP"):
        ExcitationBackprop()(Gated(), make_images(), 0)
    rules = {"mul": None}
    with pytest.warns(SaliencyWarning, match="sum to 1, got a sum of"):
        ExcitationBackprop(rules=rules)(Gated(), make_images(), 0)


def test_negative_inputs_of_a_layer_are_refused_by_its_name() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Flatten())
    model.append(nn.LazyLinear(3))
    model(make_images())
    for method in (ExcitationBackprop(), ContrastiveExcitationBackprop()):
        with pytest.raises(ModelError, match=r"at 1 layers \('1'.*saliency_layer after them"):
            method(model, make_images(), 0)
    # As the message says: a layer after it.
    assert ExcitationBackprop("2")(model, make_images(), 0).min() >= 0


def test_the_map_of_a_normalized_image_is_a_probability() -> None:
    model = torchvision.models.resnet18(weights=None).eval()
    saliency = ExcitationBackprop(resize=False)(model, torch.randn(2, 3, 64, 64), [1, 2])
    assert saliency.min() >= 0
    torch.testing.assert_close(saliency.sum((1, 2, 3)), torch.ones(2), rtol=1e-4, atol=1e-4)


def test_a_mobile_net_with_linear_bottlenecks_is_refused() -> None:
    with pytest.raises(ModelError, match=r"negative.*linear bottlenecks"):
        ExcitationBackprop()(
            torchvision.models.mobilenet_v2(weights=None).eval(), torch.randn(1, 3, 64, 64), 0
        )


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


class Unused(nn.Module):
    """Has a layer that the score does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.aside, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.aside(x)
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def test_a_contrast_layer_that_the_score_does_not_need_is_named() -> None:
    with pytest.raises(NoGradientError, match="contrast_layer 'aside'"):
        ContrastiveExcitationBackprop("", "aside")(Unused(), make_images(), 0)


def test_a_classifier_that_the_score_does_not_need_is_named() -> None:
    with pytest.raises(LayerError, match="classifier_layer 'aside'"):
        ContrastiveExcitationBackprop("", "conv", "aside")(Unused(), make_images(), 0)


@pytest.mark.parametrize(
    ("contrast", "classifier"), [("head", None), ("head", "head"), ("hidden", "features.4")]
)
def test_a_contrast_layer_after_the_classifier_is_named(
    contrast: str, classifier: str | None
) -> None:
    method = ContrastiveExcitationBackprop("features.2", contrast, classifier)
    with pytest.raises(LayerError, match=f"contrast_layer '{contrast}' to come before"):
        method(make_model("vgg"), make_images(), 0)


def test_where_the_contrast_is_formed_does_not_matter() -> None:
    model = make_model("vgg", dtype=torch.float64)
    image = make_images(dtype=torch.float64)
    found = [
        contrastive_excitation_backprop(model, image, [0, 3], "features.2", contrast)
        for contrast in (None, "hidden", "pool", "features", "features.2")
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-9, atol=1e-12)


def test_heads_that_are_mixed_are_all_turned_round() -> None:
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            self.heads = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.conv(x)).mean((2, 3))
            return self.heads[0](x) + self.heads[1](x)

    torch.manual_seed(0)
    model = Ensemble().double()
    image = make_images(dtype=torch.float64)
    found = contrastive_excitation_backprop(model, image, 1, saliency_layer="conv")
    active = torch.relu(model.conv(image)).detach()
    means = active.mean((2, 3))
    signal = torch.zeros_like(means)
    outputs = [head(means)[:, 1].detach() for head in model.heads]
    for head, output in zip(model.heads, outputs, strict=True):
        for sign in (1, -1):
            shares = means * (sign * head.weight[1].detach()).clamp(min=0)
            handed = shares / shares.sum(1, keepdim=True)
            signal += sign * handed * (output / sum(outputs))[:, None]
    per_place = active / active.sum((2, 3), keepdim=True) * signal[:, :, None, None]
    torch.testing.assert_close(found, contrastive_excitation_map(per_place))


def test_a_graph_that_begins_inside_the_model_is_enough() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.head = (
                nn.Conv2d(3, 4, 3),
                nn.Conv2d(4, 4, 3),
                nn.Linear(4, 2),
            )
            self.cut = True

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            x = torch.relu(self.conv(x.detach() if self.cut else x))
            return self.head(x.mean((2, 3)))

    torch.manual_seed(0)
    model = Detached()
    found = excitation_backprop(model, make_images(), 1, saliency_layer="conv")
    with pytest.raises(NoGradientError):
        excitation_backprop(model, make_images(), 1, saliency_layer="stem")
    model.cut = False
    wanted = excitation_backprop(model, make_images(), 1, saliency_layer="conv")
    assert torch.equal(found, wanted)


def test_float16_holds_the_signal_at_the_pixels_of_a_large_image() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 64, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 2)),
    )
    image = torch.rand(1, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    wanted = excitation_backprop(model, image, 1)
    found = excitation_backprop(model.half(), image.half(), 1)
    assert found.sum().item() == pytest.approx(1, abs=2e-3)
    assert difference(found, wanted) < 2e-3


def test_a_branch_has_its_share_and_no_warning() -> None:
    model = make_model("functional")
    branch = ExcitationBackprop("branch", resize=False)(model, make_images(), 1)
    other = ExcitationBackprop("features", resize=False)(model, make_images(), 1)
    assert (branch.sum((1, 2, 3)) + other.sum((1, 2, 3))).tolist() == pytest.approx([1, 1])


class TwoAdditions(nn.Module):
    """Two residual blocks; the second one has a branch around the layer that is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(3, 6)

    def first(self, x: Tensor) -> Tensor:
        return (self.one(x) + x).relu()

    def rest(self, x: Tensor) -> Tensor:
        y = self.three(self.two(x).relu())
        y += x
        return self.head(y.relu().mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x))


def test_only_the_additions_that_a_signal_passes_compute_shares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Rest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model.rest(x)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TwoAdditions().eval().requires_grad_(False)
    # So that something excites every unit.
    for weight in model.parameters():
        weight.abs_()
    inner = model.first(make_images().abs()).detach()
    wanted = excitation_backprop(Rest(), inner, 2, saliency_layer="model.two")
    shared: list[int] = []
    plain = SplitSum.forward

    def counted(ctx: Any, *args: Any) -> Tensor:
        shared.append(1)
        return plain(ctx, *args)

    monkeypatch.setattr(SplitSum, "forward", staticmethod(counted))
    found = excitation_backprop(model, make_images().abs(), 2, saliency_layer="two")
    # The branch around the layer has its share, although the first addition comes before it.
    assert len(shared) == 1
    torch.testing.assert_close(found, wanted)
    assert float(found.sum((1, 2, 3)).max()) < 0.99
    shared.clear()
    excitation_backprop(model, make_images().abs(), 2)
    assert len(shared) == 2


@pytest.mark.parametrize(
    ("name", "layer"), [("vgg", "features.3"), ("resnet18", "layer3"), ("resnet18", "avgpool")]
)
def test_nothing_is_kept_of_what_runs_before_the_layer(name: str, layer: str) -> None:
    model = (
        torchvision.models.resnet18(num_classes=4) if name == "resnet18" else make_model(name)
    ).eval()
    model.requires_grad_(False)

    def kept(layer: str) -> list[Tensor]:
        scores, layers, _ = record_excitation(model, make_images(), 1, {layer}, layer)
        start = layers[layer] if layer else scores
        return [tensor for node in nodes_below(start) for tensor in tensors_of(node)]

    def tensors_of(node: Node) -> list[Tensor]:
        found = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        found += getattr(node, "saved_tensors", ())
        return [value for value in found if isinstance(value, Tensor)]

    assert kept(layer) == []
    assert len(kept("")) > 3


@pytest.mark.parametrize(
    "method",
    [
        ExcitationBackprop("features"),
        ContrastiveExcitationBackprop("features.2", "hidden"),
        ContrastiveExcitationBackprop(),
    ],
    ids=repr,
)
def test_the_model_runs_once(method: ExcitationBackprop | ContrastiveExcitationBackprop) -> None:
    runs = Tally()
    model = make_model("vgg")
    method = method.prepare(model, make_images())
    model.register_forward_pre_hook(lambda _model, inputs: runs.append(len(inputs[0])))
    method(model, make_images(), 1)
    assert runs == [2]


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
