"""Methods outside of what they are for: a word or an error, and what the message says works."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import CLASSES, make_images, make_model
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, shufflenet_v2_x0_5

from lightning_saliency.attribution import (
    AttnLRP,
    AttributionMethod,
    ContrastiveExcitationBackprop,
    DeconvNet,
    ExcitationBackprop,
    GradCAM,
    Gradient,
    GuidedBackprop,
)
from lightning_saliency.attribution.from_function import FromFunction
from lightning_saliency.attribution.shared_pass import shared_maps
from lightning_saliency.errors import (
    InputError,
    MethodError,
    ModelError,
    NothingReplacedError,
    SaliencyWarning,
)

RULE_METHODS: list[AttributionMethod] = [
    GuidedBackprop(),
    DeconvNet(),
    ExcitationBackprop(),
    ContrastiveExcitationBackprop(),
    AttnLRP(),
]
by_method = pytest.mark.parametrize("method", RULE_METHODS, ids=lambda method: method.name)


class Swish(torch.autograd.Function):
    """As packages write it to save memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return gradient * s * (1 + x * (1 - s))


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def network(*activations: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for activation in activations:
        layers += [nn.Conv2d(3, 3, 3, padding=1), activation]
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES)
    return nn.Sequential(*layers, *pooled).eval()


@by_method
def test_functions_of_the_models_own_are_refused_by_name(method: AttributionMethod) -> None:
    model = network(Calls(Swish.apply), nn.ReLU())
    with pytest.raises(ModelError, match=r"calls Swish, a torch\.autograd\.Function.*Gradient"):
        method(model, make_images(), 1)
    # As the message says.
    for other in (Gradient(), GradCAM()):
        assert other(model, make_images(), 1).any()


def test_they_are_not_shared_either() -> None:
    model, images = network(Calls(Swish.apply), nn.ReLU()), make_images()
    methods = [Gradient(), GuidedBackprop(), DeconvNet()]
    came = shared_maps(methods, model, images, lambda _: [torch.tensor([1, 1])])
    assert set(came.maps) == {(0, 0)}


@pytest.mark.parametrize("make", [mobilenet_v2, shufflenet_v2_x0_5])
def test_linear_bottlenecks(make: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    model, images = make(weights=None).eval(), torch.rand(1, 3, 64, 64)
    for method in (ExcitationBackprop(), ContrastiveExcitationBackprop()):
        with pytest.raises(ModelError, match=r"negative.*AttnLRP"):
            method.prepare(model, images)


class Branches(nn.Module):
    """Adds two branches without a ReLU of their own, as RepVGG does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.left(x) + self.right(x))


@pytest.mark.filterwarnings("ignore:Expected excitation maps that sum to 1")
def test_sums_of_both_signs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *(Branches() for _ in range(4)))
    model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)])
    images = torch.rand(1, 3, 16, 20)
    for method in (ExcitationBackprop(), ContrastiveExcitationBackprop()):
        with pytest.raises(ModelError, match=r"negative .*activations of both signs.*AttnLRP"):
            method.prepare(model, images)


@pytest.mark.parametrize("key", [F.gelu, torch._C._nn.gelu, "gelu"], ids=["F", "C", "name"])
def test_rules_that_messages_propose(key: Any) -> None:
    mixed = network(nn.GELU(), nn.ReLU())
    with pytest.raises(ModelError, match=r"gelu.*\{'gelu': None\} keeps the ordinary derivative"):
        GuidedBackprop()(mixed, make_images(), 1)
    assert GuidedBackprop(rules={key: None})(mixed, make_images(), 1).any()
    # Where there is no other activation, the result would be the gradient, and the message knows.
    with pytest.raises(NothingReplacedError, match=r"Take AttnLRP.*rules=\{torch function: rule\}"):
        GuidedBackprop(rules={key: None})(network(nn.GELU()), make_images(), 1)
    own = GuidedBackprop(rules={"gelu": lambda x, **_: x.relu()})
    assert own(network(nn.GELU()), make_images(), 1).any()


def test_names_of_rules_are_checked() -> None:
    with pytest.raises(InputError, match="such as 'gelu', got 'gelo'"):
        GuidedBackprop(rules={"gelo": None})(network(nn.ReLU()), make_images(), 1)


@pytest.mark.parametrize(
    ("last", "words", "logits"),
    [
        (nn.Softmax(1), "softmax", lambda p: p.clamp(min=1e-12).log()),
        (nn.Sigmoid(), "sigmoid", lambda p: torch.logit(p, eps=1e-6)),
    ],
)
def test_probabilities_are_said_once_at_preparation(
    last: nn.Module, words: str, logits: Callable[[Tensor], Tensor]
) -> None:
    model, images = nn.Sequential(make_model(), last), make_images()
    with pytest.warns(SaliencyWarning, match=f"probabilities, of a {words}.*forward=lambda"):
        GradCAM().prepare(model, images)
    # As the message says: the logits' own map, up to what a softmax does not say.
    plain = nn.Sequential(model, Calls(logits))
    assert plain(images).argmax(1).tolist() == make_model()(images).argmax(1).tolist()
    GradCAM().prepare(plain, images)
    GradCAM().prepare(model, images, lambda output: output[:, 0])


# --- functions of the user --------------------------------------------------------------------


def asks_for_a_gradient(model: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    score = model(image).gather(1, target[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, image)
    return gradient.abs().amax(1, keepdim=True)


def goes_back(model: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    model(image).gather(1, target[:, None]).sum().backward()
    assert image.grad is not None
    return image.grad.abs().amax(1, keepdim=True)


def writes(model: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    image[:, :, :2] = 0
    return image.mean(1, keepdim=True)


@pytest.mark.parametrize("function", [asks_for_a_gradient, goes_back])
def test_a_function_gets_a_gradient_if_it_asks_for_one(function: Callable[..., Tensor]) -> None:
    model, images, target = make_model(), make_images(), torch.tensor([1, 2])
    method = FromFunction(function)
    assert method.prepare(model, images) == method
    torch.testing.assert_close(method(model, images, target), Gradient()(model, images, target))
    assert images.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_function_may_write_into_its_image() -> None:
    images = make_images()
    saliency = FromFunction(writes)(make_model(), images, torch.tensor([1, 2]))
    assert not saliency[:, :, :2].any()
    assert images[:, :, :2].any()


def test_a_function_is_tried_before_training_under_its_own_name() -> None:
    def wrong(model: nn.Module, image: Tensor, target: Tensor) -> Tensor:
        return image.mean()

    with pytest.raises(MethodError, match=r"Expected wrong to return float maps"):
        FromFunction(wrong).prepare(make_model(), make_images())

    def fails(model: nn.Module, image: Tensor, target: Tensor) -> Tensor:
        raise ArithmeticError("on purpose")

    with pytest.raises(ArithmeticError, match="on purpose"):
        FromFunction(fails).prepare(make_model(), make_images())
    with pytest.raises(InputError, match=r"got the class GradCAM\. Make one: GradCAM\(\.\.\.\)"):
        FromFunction(GradCAM)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["GradCAM", "EigenCAM", "ScoreCAM"])
def test_pytorch_grad_cam_as_it_is_written(name: str) -> None:
    package = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model, images = make_model(), make_images()

    def cam(model: Any, image: Tensor, target: Tensor) -> Tensor:
        wanted = [targets.ClassifierOutputTarget(int(index)) for index in target]
        with getattr(package, name)(model=model, target_layers=[model.features]) as method:
            return torch.from_numpy(method(input_tensor=image, targets=wanted))[:, None]

    saliency = FromFunction(cam).prepare(model, images)(model, images, torch.tensor([1, 2]))
    assert saliency.shape == (2, 1, *images.shape[2:])
    assert saliency.isfinite().all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["IntegratedGradients", "LayerGradCam", "Occlusion", "DeepLift"])
def test_captum_as_it_is_written(name: str) -> None:
    attr = pytest.importorskip("captum.attr")
    model, images = make_model(), make_images()
    settings = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)}

    def explain(model: Any, image: Tensor, target: Tensor) -> Tensor:
        layer = [model.features] if name == "LayerGradCam" else []
        method = getattr(attr, name)(model, *layer)
        more = settings if name == "Occlusion" else {}
        return method.attribute(image, target=target, **more).sum(1, keepdim=True)

    saliency = FromFunction(explain).prepare(model, images)(model, images, torch.tensor([1, 2]))
    assert saliency.shape == (2, 1, *images.shape[2:])
    assert saliency.any()
