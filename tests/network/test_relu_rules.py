"""Guided backprop and DeconvNet through every spelling of ReLU, against values computed by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_saliency.attribution import DeconvNet, Gradient, GuidedBackprop
from lightning_saliency.errors import ModelError, NothingReplacedError

stored_relu = torch.relu


class Subclass(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


def ignored(call: Callable[[Tensor], object]) -> Callable[[Tensor], Tensor]:
    """An in-place function whose result is not looked at."""

    def run(x: Tensor) -> Tensor:
        call(x)
        return x

    return run


def on_a_view(x: Tensor) -> Tensor:
    F.relu_(x.view(-1)[:])
    return x


shared = nn.ReLU()
shared_in_place = nn.ReLU(inplace=True)

# Each is one ReLU between two linear layers.
SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "nn.ReLU()": nn.ReLU(),
    "nn.ReLU(inplace=True)": nn.ReLU(inplace=True),
    "one nn.ReLU used twice": lambda x: shared(shared(x)),
    "the same in place": lambda x: shared_in_place(shared_in_place(x) + 0),
    "a subclass that calls x.relu()": Subclass(),
    "F.relu": F.relu,
    "F.relu(inplace=True)": lambda x: F.relu(x, inplace=True),
    "F.relu(x, True)": lambda x: F.relu(x, True),
    "F.relu_, ignored": ignored(F.relu_),
    "torch.relu, stored before": stored_relu,
    "torch.relu": lambda x: torch.relu(x),
    "torch.relu_": lambda x: torch.relu_(x),
    "torch.relu_, ignored": ignored(torch.relu_),
    "x.relu()": lambda x: x.relu(),
    "x.relu_(), ignored": ignored(lambda x: x.relu_()),
    "torch.ops.aten.relu": lambda x: torch.ops.aten.relu(x),
    "torch.ops.aten.relu.default": lambda x: torch.ops.aten.relu.default(x),
    "x.clamp(min=0)": lambda x: x.clamp(min=0),
    "x.clamp(0)": lambda x: x.clamp(0),
    "torch.clamp(x, min=0.0)": lambda x: torch.clamp(x, min=0.0),
    "x.clamp_(min=0), ignored": ignored(lambda x: x.clamp_(min=0)),
    "x.clamp_min(0)": lambda x: x.clamp_min(0),
    "torch.maximum(x, 0)": lambda x: torch.maximum(x, torch.zeros(())),
    "torch.maximum(0, x)": lambda x: torch.maximum(torch.zeros_like(x), x),
    "torch.max(x, 0)": lambda x: torch.max(x, torch.zeros_like(x)),
    "x.max(0)": lambda x: x.max(torch.zeros(1, 1)),
    "torch.clip(x, 0)": lambda x: torch.clip(x, 0),
    "torch.relu(input=x)": lambda x: torch.relu(input=x),
    "F.relu6(x, True), below its ceiling": lambda x: F.relu6(x, True),
    "x.clamp(0, 6), below its ceiling": lambda x: x.clamp(0, 6),
    "F.threshold(x, 0, 0)": lambda x: F.threshold(x, 0, 0),
    "nn.Threshold(0, 0, inplace=True)": nn.Threshold(0, 0, inplace=True),
    "nn.ReLU6(), below its ceiling": nn.ReLU6(),
    "nn.Hardtanh(0, 6), below its ceiling": nn.Hardtanh(0.0, 6.0),
    "in place on a view": on_a_view,
}


class OneReLU(nn.Module):
    """Scores W2 relu(W1 x), with the image's pixels as x."""

    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 2, bias=False)
        self.relu = relu
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor(FIRST))
            self.second.weight.copy_(torch.tensor(SECOND))

    def forward(self, image: Tensor) -> Tensor:
        return self.second(self.relu(self.first(image.flatten(1))))


FIRST = [[1.0, -1.0, 0.5, 0.0], [0.5, 1.0, 0.0, -1.0], [-1.0, 0.0, 1.0, 2.0], [0.0, 2.0, -1.0, 1.0]]
SECOND = [[1.0, -2.0, 3.0, 1.0], [-1.0, 1.0, 0.5, -0.5]]
IMAGE = [1.0, 2.0, -1.0, 0.5]

# z = FIRST @ IMAGE = (-1.5, 2, -1, 5.5), so units 1 and 3 are active. For class 0 the gradient
# that arrives is (1, -2, 3, 1).
# Gradient passes at the active units: (0, -2, 0, 1) @ FIRST.
PLAIN = [-1.0, 0.0, -1.0, 3.0]
# Guided passes where active and positive: (0, 0, 0, 1) @ FIRST.
GUIDED = [0.0, 2.0, -1.0, 1.0]
GUIDED_SIZES = [abs(value) for value in GUIDED]
# DeconvNet passes where positive: (1, 0, 3, 1) @ FIRST.
DECONV = [-2.0, 1.0, 2.5, 7.0]


def signed_map(method: GuidedBackprop | DeconvNet | Gradient, model: nn.Module) -> list[float]:
    """The map of a picture of 2 x 2 pixels in one channel: absolute values."""
    image = torch.tensor(IMAGE).view(1, 1, 2, 2)
    return method(model, image, 0).flatten().tolist()


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
def test_every_spelling_gets_the_rule(spelling: str, compiled: bool, autocast: bool) -> None:
    model: nn.Module = OneReLU(SPELLINGS[spelling])
    if compiled:
        torch._dynamo.reset()
        model = torch.compile(model, backend="eager")  # type: ignore[assignment]
        model(torch.tensor(IMAGE).view(1, 1, 2, 2))
    with torch.autocast("cpu", enabled=autocast):
        assert signed_map(Gradient(), model) == [abs(v) for v in PLAIN]
        assert signed_map(GuidedBackprop(), model) == GUIDED_SIZES
        assert signed_map(DeconvNet(), model) == [abs(v) for v in DECONV]


def test_the_values_by_hand_are_the_formulas() -> None:
    first, second, image = torch.tensor(FIRST), torch.tensor(SECOND), torch.tensor(IMAGE)
    active = first @ image > 0
    arrives = second[0]
    assert ((arrives * active) @ first).tolist() == PLAIN
    assert ((arrives * active * (arrives > 0)) @ first).tolist() == GUIDED
    assert (arrives.clamp(min=0) @ first).tolist() == DECONV


def test_relu6_passes_nothing_at_its_ceiling_for_guided_and_all_for_deconvnet() -> None:
    class Ceiling(OneReLU):
        def forward(self, image: Tensor) -> Tensor:
            # Unit 3 is at 11, beyond the ceiling.
            return self.second(self.relu(2 * self.first(image.flatten(1))))

    model = Ceiling(nn.ReLU6())
    assert signed_map(GuidedBackprop(), model) == [0.0, 0.0, 0.0, 0.0]
    assert signed_map(DeconvNet(), model) == [2 * abs(v) for v in DECONV]


def test_at_exactly_zero_nothing_passes() -> None:
    image = torch.zeros(1, 1, 2, 2)
    model = OneReLU(nn.ReLU())
    assert not GuidedBackprop()(model, image, 0).any()
    assert DeconvNet()(model, image, 0).any()


NO_RELU: dict[str, Callable[[Tensor], Tensor]] = {
    "another bound": lambda x: x.clamp(min=1e-6),
    "both bounds": lambda x: x.clamp(0, 1),
    "an upper bound": lambda x: x.clamp(max=0),
    "a tensor of bounds": lambda x: torch.maximum(x, torch.tensor([0.0, 0.0, 1.0, 0.0])),
    "another activation": lambda x: torch.maximum(x, -x),
    "the largest": lambda x: x * x.max(1, keepdim=True).values,
    "another threshold": lambda x: F.threshold(x, 1.0, 0.0),
    "whole numbers": lambda x: x * (x > 0).int().clamp(min=0),
}


@pytest.mark.parametrize("name", NO_RELU)
@pytest.mark.parametrize("method", [GuidedBackprop(), DeconvNet()], ids=lambda m: m.name)
def test_what_only_looks_like_a_relu_keeps_its_derivative(
    name: str, method: GuidedBackprop | DeconvNet
) -> None:
    with pytest.raises(NothingReplacedError):
        signed_map(method, OneReLU(NO_RELU[name]))


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.GELU(), "gelu"),
        (nn.SiLU(), "silu"),
        (nn.Hardswish(), "hardswish"),
        (nn.LeakyReLU(), "leaky_relu"),
        (nn.ELU(), "elu"),
        (nn.Mish(), "mish"),
        (nn.Softplus(), "softplus"),
        (nn.Tanh(), "tanh"),
        (nn.PReLU(), "prelu"),
        (nn.Hardtanh(-1, 1), "hardtanh"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("method", [GuidedBackprop(), DeconvNet()], ids=lambda m: m.name)
def test_other_activations_are_refused_by_name(
    activation: nn.Module, name: str, method: GuidedBackprop | DeconvNet
) -> None:
    with pytest.raises(NothingReplacedError, match=name):
        signed_map(method, OneReLU(activation))
    with pytest.raises(ModelError, match=name):
        signed_map(method, OneReLU(nn.Sequential(nn.ReLU(), activation)))


def test_an_ordinary_derivative_can_be_kept() -> None:
    model = OneReLU(nn.Sequential(nn.ReLU(), nn.LeakyReLU(0.5)))
    assert signed_map(GuidedBackprop(rules={F.leaky_relu: None}), model) == GUIDED_SIZES
    # Where the ReLU puts out 0, the LeakyReLU passes half: (1/2, 0, 3/2, 1) @ FIRST.
    half = (torch.tensor([0.5, 0.0, 1.5, 1.0]) @ torch.tensor(FIRST)).abs().tolist()
    assert signed_map(DeconvNet(rules={F.leaky_relu: None}), model) == half


def test_a_rule_of_ones_own_is_taken() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return F.leaky_relu(x)

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return 2 * gradient

    def doubled(x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
        return Doubled.apply(x)

    model = OneReLU(nn.Sequential(nn.ReLU(), nn.LeakyReLU()))
    method = GuidedBackprop(rules={F.leaky_relu: doubled})
    assert signed_map(method, model) == [2 * value for value in GUIDED_SIZES]
