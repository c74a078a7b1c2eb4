"""The relatives of Grad-CAM: their formulas, pytorch-grad-cam, and the pass that they share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tally import Tally
from tiny_models import CLASSES, MODELS, make_images, make_model
from torch import Tensor, nn
from traces import bits

from lightning_saliency.attribution import (
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    LinearApprox,
)
from lightning_saliency.attribution.grad_cam_plus_plus import (
    grad_cam_plus_plus,
    grad_cam_plus_plus_map,
)
from lightning_saliency.attribution.gradient_bases import LayerMethod
from lightning_saliency.attribution.hires_cam import hires_cam, hires_cam_map
from lightning_saliency.attribution.layer_cam import layer_cam, layer_cam_map
from lightning_saliency.attribution.shared_pass import shared_maps
from lightning_saliency.image.saliency_map import resize
from lightning_saliency.network.isolation.undisturbed import undisturbed

reference = pytest.importorskip("pytorch_grad_cam")

Numbers = dict[tuple[int, int], tuple[float, float]]


def naive(activation: Tensor, gradient: Tensor, value: Callable[[Numbers], Numbers]) -> Tensor:
    """Sum over channels what ``value`` makes of each; one number after the other.

    ``value`` takes and returns, by place, an activation and a weight.
    """
    count, channels, height, width = activation.shape
    maps = torch.zeros(count, 1, height, width, dtype=activation.dtype)
    places = [(y, x) for y in range(height) for x in range(width)]
    for n in range(count):
        sums = dict.fromkeys(places, 0.0)
        for k in range(channels):
            numbers = {
                place: (activation[n, k][place].item(), gradient[n, k][place].item())
                for place in places
            }
            for place, (active, weight) in value(numbers).items():
                sums[place] += active * weight
        for place, total in sums.items():
            maps[n, 0][place] = max(0.0, total)
    return maps


def naive_layer_cam(numbers: Numbers) -> Numbers:
    return {place: (active, max(0.0, slope)) for place, (active, slope) in numbers.items()}


def naive_grad_cam_plus_plus(numbers: Numbers) -> Numbers:
    total = sum(active for active, _ in numbers.values())
    weight = 0.0
    for _, slope in numbers.values():
        if slope != 0:
            weight += max(0.0, slope) * slope**2 / (2 * slope**2 + total * slope**3)
    return {place: (active, weight) for place, (active, _) in numbers.items()}


def naive_hires_cam(numbers: Numbers) -> Numbers:
    return numbers


FORMULAS: list[Any] = [
    pytest.param(
        GradCAMPlusPlus,
        grad_cam_plus_plus_map,
        naive_grad_cam_plus_plus,
        id="grad_cam_plus_plus",
    ),
    pytest.param(HiResCAM, hires_cam_map, naive_hires_cam, id="hires_cam"),
    pytest.param(LayerCAM, layer_cam_map, naive_layer_cam, id="layer_cam"),
]
every_formula = pytest.mark.parametrize(("kind", "formula", "value"), FORMULAS)
every_kind = pytest.mark.parametrize("kind", [param.values[0] for param in FORMULAS])


@every_formula
def test_map_is_the_formula_of_the_paper(kind: Any, formula: Any, value: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    activation, gradient = torch.randn(2, 2, 4, 3, 5, dtype=torch.float64, generator=generator)
    # As after a ReLU.
    activation = activation.clamp(min=0)
    wanted = naive(activation, gradient, value)
    assert wanted.std() > 0
    torch.testing.assert_close(formula(activation, gradient), wanted)
    assert torch.equal(kind.layer_map(activation, gradient), formula(activation, gradient))


@every_formula
def test_call_is_the_formula_on_the_layer(kind: Any, formula: Any, value: Any) -> None:
    model, images = make_model(dtype=torch.float64), make_images(dtype=torch.float64)
    with undisturbed(model):
        activation = model.features(images).detach().requires_grad_()
        scores = model.head(model.hidden(model.pool(activation)))[[0, 1], [1, 4]]
        (gradient,) = torch.autograd.grad(scores.sum(), activation)
    wanted = naive(activation, gradient, value)
    came = kind("features", resize=False)(model, images, [1, 4])
    torch.testing.assert_close(came, wanted)


class Louder(nn.Module):
    """The usual model with larger logits.

    The reference adds 1e-6 to Grad-CAM++'s divisors, next to squares of gradients. The paper does
    not; with gradients as large as these it makes no difference.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.model = make_model(kind)
        self.features = self.model.features

    def forward(self, x: Tensor) -> Tensor:
        return 1e5 * self.model(x)


def to_unit_range(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    return (maps - low) / (high - low + 1e-7)


@every_kind
@pytest.mark.parametrize("name", MODELS)
def test_pytorch_grad_cam_agrees(kind: type[LayerMethod], name: str) -> None:
    model, images, targets = Louder(name).eval(), make_images(4), [1, 4, 0, 2]
    cam = getattr(reference, kind.__name__)(model, [model.features])
    chosen = [reference.utils.model_targets.ClassifierOutputTarget(target) for target in targets]
    wanted = torch.from_numpy(np.asarray(cam(images, chosen)))[:, None]
    cam.activations_and_grads.release()
    maps = kind("features", resize=False)(model, images, targets)
    # It scales each map to [0, 1] before it resizes it, and once more afterwards.
    came = to_unit_range(resize(to_unit_range(maps), (16, 20)))
    torch.testing.assert_close(came, wanted, rtol=0, atol=1e-5)


@every_kind
def test_methods_differ_from_grad_cam(kind: type[LayerMethod]) -> None:
    model, images = make_model(), make_images()
    came, other = kind("features")(model, images, 1), GradCAM("features")(model, images, 1)
    assert not torch.allclose(came / came.amax(), other / other.amax(), atol=0.01)


def test_all_share_one_pass_with_grad_cam() -> None:
    model, images = make_model(), make_images()
    methods = [GradCAM("features"), *(param.values[0]("features") for param in FORMULAS)]
    methods = [method.prepare(model, images) for method in methods]
    calls = Tally()
    handle = model.head.register_forward_hook(lambda *_: calls.append(1))
    targets = torch.tensor([1, CLASSES - 1])
    found = shared_maps(methods, model, images, lambda _: [targets])
    handle.remove()
    assert len(calls) == 1
    assert set(found.maps) == {(row, 0) for row in range(len(methods))}
    for (row, _), maps in found.maps.items():
        assert bits(maps) == bits(methods[row](model, images, targets))


@pytest.mark.parametrize(
    ("kind", "function"),
    [(GradCAMPlusPlus, grad_cam_plus_plus), (HiResCAM, hires_cam), (LayerCAM, layer_cam)],
)
def test_function_is_the_object_without_resizing(kind: Any, function: Any) -> None:
    model, images = make_model(), make_images()
    method = kind("features.4", "channels_first", resize=(4, 4), smooth=0.1)
    came = function(model, images, 1, "features.4", (4, 4), smooth=0.1, layout="channels_first")
    assert torch.equal(came, method(model, images, 1))
    for nothing in ("", None):
        alone = function(model, images, 1, nothing)
        assert torch.equal(alone, kind("features", resize=False)(model, images, 1))


def test_grad_cam_plus_plus_by_hand() -> None:
    # The weights are 1 / (2 + 1 * 4) + 3 / (2 + 3 * 4), and 0 where no gradient is positive.
    activation = torch.tensor([[[[3.0, 1.0]], [[1.0, 2.0]]]])
    gradient = torch.tensor([[[[1.0, 3.0]], [[-3.0, 0.0]]]])
    weight = 1 / 6 + 3 / 14
    came = grad_cam_plus_plus_map(activation, gradient)
    torch.testing.assert_close(came, torch.tensor([[[[3 * weight, weight]]]]))


def test_grad_cam_plus_plus_of_a_negative_layer_is_finite() -> None:
    # 2 + g sum A is exactly 0 for the second place.
    activation = torch.tensor([[[[-1.0, 0.0]], [[1.0, 1.0]]]])
    gradient = torch.tensor([[[[0.0, 2.0]], [[1.0, 0.0]]]])
    came = grad_cam_plus_plus_map(activation, gradient)
    torch.testing.assert_close(came, torch.tensor([[[[1 / 4, 1 / 4]]]]))


def test_hires_cam_is_the_positive_part_of_linear_approximation() -> None:
    model, images = make_model(), make_images()
    signed = LinearApprox("features", resize=False)(model, images, [1, 4])
    assert signed.min() < 0
    came = HiResCAM("features", resize=False)(model, images, [1, 4])
    assert torch.equal(came, signed.clamp(min=0))


def test_before_global_pooling_hires_cam_is_grad_cam() -> None:
    model, images = make_model("residual"), make_images()
    wanted = GradCAM("features")(model, images, [1, 4])
    torch.testing.assert_close(HiResCAM("features")(model, images, [1, 4]), wanted)
