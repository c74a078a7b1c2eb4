"""Several methods from one forward pass: the same maps, fewer passes, nobody's fault spreads."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from tally import Tally
from tiny_models import CLASSES, MODELS, in_training, make_images, make_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import densenet121, googlenet, mobilenet_v2, resnet18, vgg11
from traces import bits, leaves_no_trace

from lightning_saliency.attribution import (
    AttributionMethod,
    DeconvNet,
    ExcitationBackprop,
    GradCAM,
    Gradient,
    GuidedBackprop,
    LinearApprox,
)
from lightning_saliency.attribution.shared_pass import SharedMaps, shared_maps
from lightning_saliency.errors import InputError, ModelError

FIVE = [Gradient(), GradCAM("features"), LinearApprox("features"), GuidedBackprop(), DeconvNet()]


def shared(
    methods: list[AttributionMethod], model: nn.Module, image: Tensor, *targets: list[int]
) -> SharedMaps:
    return shared_maps(methods, model, image, lambda _: [torch.tensor(t) for t in targets])


def agrees(
    methods: list[AttributionMethod], model: nn.Module, image: Tensor, *targets: list[int]
) -> None:
    """Every method shares, and every map is that of a call of the method, to the last bit."""
    came = shared(methods, model, image, *targets)
    assert set(came.maps) == {(i, j) for i in range(len(methods)) for j in range(len(targets))}
    for (row, column), saliency in came.maps.items():
        wanted = methods[row](model, image, targets[column])
        assert bits(saliency) == bits(wanted), methods[row].name


# --- the same maps ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_maps_are_those_of_separate_calls(kind: str, dtype: torch.dtype) -> None:
    model, images = make_model(kind, dtype=dtype), make_images(3, dtype=dtype)
    agrees(FIVE, model, images, [1, 0, 4], [2, 2, 2])
    with torch.no_grad():
        assert bits(shared(FIVE, model, images, [1, 0, 4]).logits) == bits(model(images))


@pytest.mark.parametrize("make", [resnet18, vgg11, mobilenet_v2, densenet121, googlenet])
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet:FutureWarning")
@pytest.mark.slow
def test_maps_of_large_networks_are_those_of_separate_calls(make: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    model = make(num_classes=10).eval()
    layers = [name for name, _ in model.named_children()]
    middle = "layer3" if "layer3" in layers else layers[0]
    methods = [
        Gradient(),
        *(kind(middle) for kind in (Gradient, GradCAM, LinearApprox, GuidedBackprop, DeconvNet)),
        GuidedBackprop(),
        DeconvNet(),
    ]
    agrees(methods, model, torch.randn(2, 3, 64, 64), [1, 7])


def test_layers_one_within_the_other() -> None:
    model = make_model("residual")
    layers = ["stem", "features.0.conv1", "features.0", "features", "features.1"]
    methods: list[AttributionMethod] = [Gradient(), *map(GradCAM, layers), DeconvNet("features.0")]
    agrees(methods, model, make_images(), [1, 3])


def test_settings_of_a_map_are_kept() -> None:
    methods = [
        Gradient(resize=False, smooth=0.1),
        Gradient(smooth=0.05, resize=(5, 7)),
        GradCAM("features", resize=False),
        LinearApprox("features", resize_mode="nearest"),
    ]
    agrees(methods, make_model(), make_images(), [1, 2])


def test_a_layer_alone_starts_the_graph_there() -> None:
    # Where Grad-CAM is alone, nothing before its layer is recorded.
    recorded = Tally()

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            recorded.append(x.requires_grad)
            return x

    model = nn.Sequential(Spy(), make_model().features, Spy(), nn.Flatten(), nn.LazyLinear(5))
    model(make_images())
    methods = [kind("1").prepare(model, make_images()) for kind in (GradCAM, LinearApprox)]
    recorded.clear()
    agrees(methods, model, make_images(), [1, 2])
    assert recorded[:2] == [False, True]


# --- fewer passes -----------------------------------------------------------------------------


class Counting(nn.Module):
    """Counts forward passes, and the backward passes that reach its input and its features."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model()
        self.forwards, self.backwards = Tally(), Tally()

    def forward(self, x: Tensor) -> Tensor:
        self.forwards.append(1)
        x = x * 1
        if x.requires_grad:
            x.register_hook(self._count)
        return self.inner(x)

    def _count(self, gradient: Tensor) -> None:
        self.backwards.append(1)


def test_five_methods_take_one_forward_and_three_backward_passes() -> None:
    model = Counting()
    five = [
        Gradient(),
        GradCAM("inner.features"),
        LinearApprox("inner.features"),
        GuidedBackprop(),
        DeconvNet(),
    ]
    five = [method.prepare(model, make_images()) for method in five]
    model.forwards, model.backwards = Tally(), Tally()
    assert len(shared(five, model, make_images(), [1, 2]).maps) == 5
    assert (len(model.forwards), len(model.backwards)) == (1, 3)


def test_equal_targets_are_explained_once() -> None:
    model = Counting()
    came = shared([Gradient()], model, make_images(), [1, 2], [1, 2], [0, 2])
    assert (len(model.forwards), len(model.backwards)) == (1, 2)
    assert bits(came.maps[0, 0]) == bits(came.maps[0, 1]) != bits(came.maps[0, 2])


# --- what does not share ----------------------------------------------------------------------


@dataclass(frozen=True)
class Own(Gradient):
    """Does its own thing."""

    def attribute(self, model: nn.Module, image: Tensor, target: object) -> Tensor:
        return image[:, :1]


@dataclass(frozen=True)
class Squared(Gradient):
    """Makes another map of the same reading, so it can share."""

    def map_of(self, activation: Tensor, gradient: Tensor, size: tuple[int, int]) -> Tensor:
        return gradient.square().sum(1, keepdim=True)


def test_methods_of_other_kinds_are_left_out() -> None:
    methods = [Own(), Gradient(), ExcitationBackprop(), Squared(), GuidedBackprop(rules={})]
    ruled = GuidedBackprop(rules={torch.sigmoid: None})
    model, images = make_model(), make_images()
    came = shared([*methods, ruled], model, images, [1, 2])
    assert set(came.maps) == {(1, 0), (3, 0), (4, 0)}
    assert bits(came.maps[3, 0]) == bits(Squared()(model, images, [1, 2]))


def test_without_anybody_who_shares_there_are_the_logits() -> None:
    model, images = make_model(), make_images()
    came = shared([Own()], model, images, [1, 2])
    assert came.maps == {}
    torch.testing.assert_close(came.logits, model(images).detach())
    assert not came.logits.requires_grad


def test_a_method_that_does_not_apply_leaves_the_others_alone() -> None:
    # No ReLU: guided backprop would be the gradient, and says so when it is called.
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(CLASSES))
    images = make_images()
    model(images)
    methods = [Gradient(), GuidedBackprop(), GradCAM("nowhere"), GradCAM("1"), GradCAM("3")]
    came = shared(methods, model, images, [1, 2])
    assert set(came.maps) == {(0, 0), (3, 0)}
    assert bits(came.maps[0, 0]) == bits(Gradient()(model, images, [1, 2]))
    assert bits(came.maps[3, 0]) == bits(GradCAM("1")(model, images, [1, 2]))


class Clamps(nn.Module):
    """A ReLU whose derivative at 0 is another one in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).clamp(min=0)
        return self.head(x.mean((2, 3)))


def test_a_derivative_that_cannot_be_had_to_the_last_bit_is_left_out() -> None:
    torch.manual_seed(0)
    model, images = Clamps(), make_images()
    images[:, :, :8] = 0
    came = shared([Gradient(), GuidedBackprop(), DeconvNet()], model, images, [1, 2])
    assert set(came.maps) == {(1, 0), (2, 0)}
    assert bits(came.maps[1, 0]) == bits(GuidedBackprop()(model, images, [1, 2]))
    # Without guided backprop there is no rule, and the gradient is torch's own.
    agrees([Gradient(), GradCAM("conv")], model, images, [1, 2])


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    "make", [nn.ReLU, nn.ReLU6, lambda inplace: nn.Hardtanh(0, 1.5, inplace=inplace)]
)
def test_ceilings_and_exact_zeros(make: Callable[..., nn.Module], inplace: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), make(inplace=inplace), nn.Flatten(), nn.LazyLinear(CLASSES)
    )
    images = 6 * make_images()
    images[:, :, :8] = 0
    model(images)
    agrees([Gradient(), GuidedBackprop(), DeconvNet(), GradCAM("0")], model, images, [1, 2])


class Frozen(nn.Module):
    """Runs its first part in no_grad, as a frozen extractor."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.inner.features(x)
        return self.inner.head(self.inner.hidden(self.inner.pool(x)))


def test_a_part_in_no_grad_hides_the_image_but_not_the_layers_after_it() -> None:
    methods = [Gradient(), GradCAM("inner.features"), GuidedBackprop()]
    came = shared(methods, Frozen(), make_images(), [1, 2])
    assert set(came.maps) == {(1, 0)}
    assert bits(came.maps[1, 0]) == bits(methods[1](Frozen(), make_images(), [1, 2]))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model()

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.inner.features, x, use_reentrant=False)
        return self.inner.head(self.inner.hidden(self.inner.pool(x)))


def test_checkpoints() -> None:
    model, images = Checkpointed(), make_images()
    came = shared([Gradient(), GradCAM("inner.features"), GuidedBackprop()], model, images, [1, 2])
    for (row, _), saliency in came.maps.items():
        method = [Gradient(), GradCAM("inner.features"), GuidedBackprop()][row]
        assert bits(saliency) == bits(method(model, images, [1, 2]))


class FailsWhenRecorded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model()

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise RuntimeError("not today")
        return self.inner(x)


def test_a_pass_that_fails_shares_nothing() -> None:
    came = shared([Gradient(), GradCAM("inner.features")], FailsWhenRecorded(), make_images(), [1])
    assert came.maps == {}
    assert came.logits.shape == (2, CLASSES)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*")
def test_a_scripted_model_gives_no_map_with_rules() -> None:
    model = torch.jit.trace(make_model(), make_images())
    came = shared([Gradient(), GuidedBackprop()], model, make_images(), [1, 2])
    assert set(came.maps) == {(0, 0)}


# --- errors and traces ------------------------------------------------------------------------


class NoLogits(nn.Module):
    def forward(self, x: Tensor) -> str:
        return "a cat"


def test_errors_that_concern_everybody() -> None:
    with pytest.raises(InputError, match="finite"):
        shared(FIVE, make_model(), make_images() / 0, [1, 2])
    with pytest.raises(ModelError, match="logits"):
        shared(FIVE, NoLogits(), make_images(), [1, 2])
    with pytest.raises(ZeroDivisionError):
        shared_maps(FIVE, make_model(), make_images(), lambda _: 1 / 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", MODELS)
def test_no_trace_is_left(kind: str) -> None:
    model, images = in_training(make_model(kind)), make_images()
    with leaves_no_trace(model, images), torch.inference_mode():
        came = shared(FIVE, model, images, [1, 2])
    assert len(came.maps) == 5
    assert not any(saliency.requires_grad for saliency in came.maps.values())
