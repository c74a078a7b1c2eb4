"""Each rule of excitation backprop against the paper's sum, written as loops over a matrix."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_saliency.errors import ModelError
from lightning_saliency.network.backward_rules import BackwardRules
from lightning_saliency.network.excitation_functions import PositiveWeights, WeightedSum
from lightning_saliency.network.excitation_rules import excitation_rules

Map = Callable[[Tensor], Tensor]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def signal_at_input(function: Map, x: Tensor, start: Tensor | None = None) -> Tensor:
    """Run a function under the rules and hand a signal of ``start`` (or all ones) down."""
    x = x.clone().requires_grad_()
    with BackwardRules(excitation_rules()):
        # So that something is replaced, also where the function has no rule.
        torch.relu(torch.ones(()))
        # A clone, because some of the functions write into what they get.
        y = function(x.clone())
    start = torch.ones_like(y) if start is None else start
    (signal,) = torch.autograd.grad(y, x, start)
    return signal


def by_loops(function: Map, x: Tensor, start: Tensor) -> Tensor:
    """Hand a signal down a linear function, unit by unit, by its weights found by trial."""
    nothing = function(torch.zeros_like(x)).flatten()
    signal = torch.zeros(x.numel(), dtype=x.dtype)
    weights = torch.zeros(len(nothing), x.numel(), dtype=x.dtype)
    for j in range(x.numel()):
        one = torch.zeros(x.numel(), dtype=x.dtype)
        one[j] = 1
        weights[:, j] = function(one.view_as(x)).flatten() - nothing
    # What is left of a zero after the difference is no weight.
    weights[weights.abs() < 1e-12] = 0
    for i, top in enumerate(start.flatten()):
        shares = [float(x.flatten()[j]) * max(float(weights[i, j]), 0) for j in range(x.numel())]
        total = sum(shares)
        for j, share in enumerate(shares):
            signal[j] += float(top) * share / total if total else 0
    return signal.view_as(x)


W = {dim: random(4, 2, *[3] * dim, seed=dim) for dim in (1, 2, 3)}
T = {dim: random(2, 4, *[3] * dim, seed=dim) for dim in (1, 2, 3)}
BIAS = random(4, seed=9)
MATRIX = random(4, 5, seed=4)

# From the shape of the input to a function of it that is linear but for a bias.
LINEAR: dict[str, tuple[tuple[int, ...], Map]] = {
    "conv1d": ((2, 2, 6), lambda x: F.conv1d(x, W[1], BIAS, padding=1)),
    "conv2d": ((2, 2, 5, 4), lambda x: F.conv2d(x, W[2], BIAS, 2, 1)),
    "conv2d by names": ((1, 2, 5, 5), lambda x: F.conv2d(input=x, weight=W[2], dilation=2)),
    "conv2d, padding as a word": ((1, 2, 4, 4), lambda x: F.conv2d(x, W[2], padding="same")),
    "conv2d in groups": ((1, 4, 4, 4), lambda x: torch.conv2d(x, W[2], BIAS, groups=2)),
    "conv3d": ((1, 2, 3, 4, 3), lambda x: F.conv3d(x, W[3], BIAS, padding=1)),
    "conv_transpose1d": ((1, 2, 4), lambda x: F.conv_transpose1d(x, T[1], BIAS, stride=2)),
    "conv_transpose2d": ((1, 2, 3, 3), lambda x: F.conv_transpose2d(x, T[2], BIAS, 2, 1, 1)),
    "conv_transpose3d": ((1, 2, 2, 2, 2), lambda x: F.conv_transpose3d(x, T[3], BIAS)),
    "aten convolution": (
        (1, 2, 4, 4),
        lambda x: torch.ops.aten.convolution(
            x, W[2], BIAS, [1, 1], [1, 1], [1, 1], False, [0, 0], 1
        ),
    ),
    "linear": ((3, 5), lambda x: F.linear(x, MATRIX, BIAS)),
    "linear on more dimensions": ((2, 3, 5), lambda x: F.linear(x, MATRIX)),
    "x @ w": ((3, 5), lambda x: x @ MATRIX.T),
    "w @ x": ((5, 3), lambda x: MATRIX @ x),
    "torch.matmul": ((3, 5), lambda x: torch.matmul(x, MATRIX.T)),
    "mm": ((3, 5), lambda x: x.mm(MATRIX.T)),
    "mv": ((5,), lambda x: torch.mv(MATRIX, x)),
    "bmm": ((2, 3, 5), lambda x: torch.bmm(x, MATRIX.T.expand(2, 5, 4))),
    "addmm": ((3, 5), lambda x: torch.addmm(BIAS, x, MATRIX.T)),
    "baddbmm": ((2, 3, 5), lambda x: torch.baddbmm(BIAS, x, MATRIX.T.expand(2, 5, 4))),
    "einsum": ((2, 5, 3, 2), lambda x: torch.einsum("nchw,kc->nkhw", x, MATRIX)),
    "einsum, weights first": ((2, 5), lambda x: torch.einsum("kc,nc->nk", [MATRIX, x])),
    "avg_pool1d": ((1, 2, 6), lambda x: F.avg_pool1d(x, 2)),
    "avg_pool2d": ((2, 2, 5, 4), lambda x: F.avg_pool2d(x, 3, 2, 1)),
    "avg_pool3d": ((1, 1, 4, 4, 2), lambda x: F.avg_pool3d(x, 2)),
    "adaptive_avg_pool1d": ((1, 2, 5), lambda x: F.adaptive_avg_pool1d(x, 3)),
    "adaptive_avg_pool2d": ((1, 2, 5, 4), lambda x: F.adaptive_avg_pool2d(x, output_size=(2, 3))),
    "adaptive_avg_pool3d": ((1, 1, 3, 3, 3), lambda x: F.adaptive_avg_pool3d(x, 2)),
    "x.mean": ((2, 3, 3, 2), lambda x: x.mean((2, 3))),
    "torch.mean": ((2, 3, 4), lambda x: torch.mean(x, dim=-1, keepdim=True)),
    "x.sum": ((2, 3, 4), lambda x: x.sum(1)),
    "nearest": ((1, 2, 2, 3), lambda x: F.interpolate(x, scale_factor=2)),
    "bilinear": (
        (1, 1, 2, 3),
        lambda x: F.interpolate(x, size=(5, 4), mode="bilinear", align_corners=False),
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_weighted_sum_is_the_papers_loop(name: str) -> None:
    shape, function = LINEAR[name]
    # Zeros as a ReLU makes them, and a signal that does not reach every unit.
    x = random(*shape, seed=11).clamp(min=0)
    start = random(*function(x).shape, seed=12).clamp(min=0)
    found = signal_at_input(function, x, start)
    torch.testing.assert_close(found, by_loops(function, x, start), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_the_value_is_the_functions_own(name: str) -> None:
    shape, function = LINEAR[name]
    x = random(*shape, seed=11)
    wanted = function(x)
    with BackwardRules(excitation_rules()) as rules:
        assert torch.equal(function(x.clone().requires_grad_()), wanted)
    assert rules.replaced


def test_a_signed_image_is_bounded_at_the_first_layer() -> None:
    # The z-B rule, by loops; each image has its own bounds, and one of values >= 0 the usual rule.
    x, start = random(2, 5, seed=1), random(2, 4, seed=2).abs()
    x[1] = x[1].abs()
    found = signal_at_input(lambda x: F.linear(x, MATRIX), x, start)
    wanted = by_loops(lambda x: F.linear(x, MATRIX), x, start)
    low, high = float(x[0].min()), float(x[0].max())
    for i in range(5):
        wanted[0, i] = 0
        for o in range(4):
            shares = [
                (x[0, j] - low) * max(w, 0) + (high - x[0, j]) * max(-w, 0)
                for j, w in enumerate(MATRIX[o].tolist())
            ]
            wanted[0, i] += start[0, o] * shares[i] / sum(shares)
    torch.testing.assert_close(found, wanted)
    assert found.min() >= 0
    torch.testing.assert_close(found.sum(1), start.sum(1))


def test_a_unit_that_nothing_excites_hands_nothing_down() -> None:
    weight = torch.tensor([[-1.0, -2.0], [0.0, 3.0]])
    found = signal_at_input(lambda x: F.linear(x, weight), torch.tensor([[1.0, 1.0]]))
    assert found.tolist() == [[0.0, 1.0]]
    assert signal_at_input(lambda x: F.linear(x, weight), torch.zeros(1, 2)).tolist() == [[0, 0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_half_precision_divides_safely(dtype: torch.dtype, size: float) -> None:
    def convolution(x: Tensor) -> Tensor:
        return F.conv2d(x, W[2].to(x.dtype), BIAS.to(x.dtype), padding=1)

    x = (random(1, 2, 6, 6, seed=3).clamp(min=0) * size).to(dtype)
    start = random(1, 4, 6, 6, seed=4).abs().to(dtype)
    found = signal_at_input(convolution, x, start)
    wanted = signal_at_input(convolution, x.double(), start.double())
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=2e-2, atol=2e-2)


def test_what_autocast_computes_in_the_model_is_handed_down_in_float32() -> None:
    x = random(2, 5, seed=1, dtype=torch.float32).abs()
    matrix = MATRIX.float()

    def linear(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.linear(x, matrix)

    start = torch.ones(2, 4, dtype=torch.bfloat16)
    wanted = by_loops(lambda x: F.linear(x, matrix), x, start)
    torch.testing.assert_close(signal_at_input(linear, x, start), wanted)


# --- sums of activations ----------------------------------------------------------------------

ADDITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a + b": lambda a, b: a + b,
    "torch.add": lambda a, b: torch.add(a, b),
    "a.add": lambda a, b: a.add(b),
    "torch.ops.aten.add": lambda a, b: torch.ops.aten.add(a, b),
    "torch.ops.aten.add.Tensor": lambda a, b: torch.ops.aten.add.Tensor(a, b),
    "sum of a list": lambda a, b: sum([a, b], start=torch.zeros(())),
    "operator.add": operator.add,
    "a += b": operator.iadd,
    "a.add_": lambda a, b: a.add_(b),
    "a.add_, ignored": lambda a, b: (a.add_(b), a)[1],
    "by name": lambda a, b: torch.add(a, other=b),
    "stack and sum": lambda a, b: torch.stack([a, b]).sum(0),
}


@pytest.mark.parametrize("name", ADDITIONS)
def test_an_addition_splits_in_proportion(name: str) -> None:
    a, b = torch.tensor([1.0, 3.0, 0.0, 0.0]), torch.tensor([3.0, 1.0, 2.0, 0.0])
    pair = torch.stack([a, b])
    found = signal_at_input(lambda x: ADDITIONS[name](x[0], x[1]), pair, torch.full((4,), 8.0))
    assert found.tolist() == [[2.0, 6.0, 0.0, 0.0], [6.0, 2.0, 8.0, 0.0]]


def test_other_sums() -> None:
    pair = torch.tensor([[1.0, 4.0], [3.0, 2.0]])
    start = torch.full((2,), 10.0)

    def signal(function: Callable[[Tensor, Tensor], Tensor]) -> list[list[float]]:
        return signal_at_input(lambda x: function(x[0], x[1]), pair, start).tolist()

    assert signal(lambda a, b: torch.add(a, b, alpha=3)) == [[1.0, 4.0], [9.0, 6.0]]
    assert signal(lambda a, b: a.add_(b, alpha=3)) == [[1.0, 4.0], [9.0, 6.0]]
    assert signal(lambda a, b: a - b) == [[10.0, 10.0], [0.0, 0.0]]
    assert signal(operator.isub) == [[10.0, 10.0], [0.0, 0.0]]
    assert signal(lambda a, b: a + a) == [[10.0, 10.0], [0.0, 0.0]]
    assert signal(lambda a, b: operator.iadd(b, b)) == [[0.0, 0.0], [10.0, 10.0]]


def test_a_summand_that_is_repeated_gets_all_its_shares() -> None:
    def gate(x: Tensor) -> Tensor:
        return x[:, :1] + x

    x = torch.tensor([[1.0, 3.0, 1.0]])
    found = signal_at_input(gate, x, torch.full((1, 3), 4.0))
    # 1 + 1, 1 + 3, 1 + 1: the first gets 4 of the first unit, 1 of the second, 2 of the third.
    assert found.tolist() == [[7.0, 3.0, 2.0]]


def test_a_model_may_write_into_what_it_has_added_or_averaged() -> None:
    def residual(x: Tensor) -> Tensor:
        branch = x * 1
        out = branch + x
        branch.relu_().zero_()
        mean = x.mean(1, keepdim=True)
        x.sub_(1.0)
        return out + mean

    x = torch.tensor([[1.0, 3.0]])
    found = signal_at_input(residual, x, torch.ones(1, 2))
    # (1 + 1) + 2 and (3 + 3) + 2: of the mean each place gets its share, 1 of 4 and 3 of 4.
    mean = 2 / 4 + 2 / 8
    wanted = [2 / 4 + mean * 1 / 4, 6 / 8 + mean * 3 / 4]
    assert found.flatten().tolist() == pytest.approx(wanted)


# --- single units -----------------------------------------------------------------------------


def normalised(x: Tensor) -> Tensor:
    norm = nn.BatchNorm2d(3).double().eval()
    assert norm.running_mean is not None
    norm.running_mean.copy_(random(3, seed=5))
    return norm.requires_grad_(False)(x)


PASSED_ON: dict[str, Map] = {
    "x + 3": lambda x: x + 3,
    "3 + x": lambda x: 3 + x,
    "x += constant": lambda x: operator.iadd(x, torch.full((3, 1, 1), 2.0)),
    "constant + x": lambda x: torch.full((3, 1, 1), 2.0) + x,
    "into a buffer": lambda x: torch.zeros_like(x).detach().add_(x),
    "x - 3": lambda x: x - 3,
    "x * 2": lambda x: x * 2,
    "2 * x": lambda x: 2 * x,
    "x * constant": lambda x: x * torch.full((3, 1, 1), 0.1),
    "constant * x": lambda x: torch.mul(torch.full((3, 1, 1), 0.1), x),
    "x *= 2": lambda x: operator.imul(x, 2),
    "x / 255": lambda x: x / 255,
    "x /= 255": lambda x: operator.itruediv(x, 255),
    "batch norm": normalised,
    "layer norm": lambda x: F.layer_norm(x, (4,)),
    "group norm": lambda x: F.group_norm(x, 3),
    "instance norm": lambda x: F.instance_norm(x),
    "local response norm": lambda x: F.local_response_norm(x, 2),
    "sigmoid": torch.sigmoid,
    "sigmoid_, ignored": lambda x: (x.sigmoid_(), x)[1],
    "softplus": F.softplus,
    "hardsigmoid in place": lambda x: F.hardsigmoid(x, True),
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: F.log_softmax(x, dim=1),
    "ReLU": F.relu,
    "ReLU6, also at its ceiling": lambda x: F.relu6(4 * x),
    "hardtanh from 0": lambda x: F.hardtanh(x, 0.0, 0.5, True),
    "clamp from 0 to 6": lambda x: (9 * x).clamp(0, 6),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "reshaping": lambda x: x.flatten(1).reshape(2, -1, 4),
    "concatenation": lambda x: torch.cat([x[:, 1:], x[:, :1]], 1),
}


@pytest.mark.parametrize("name", PASSED_ON)
def test_the_signal_is_passed_on(name: str) -> None:
    x = random(2, 3, 5, 4, seed=1).abs() + 0.01
    function = PASSED_ON[name]
    start = random(*function(x.clone()).shape, seed=2)
    found = signal_at_input(function, x, start)
    if name == "concatenation":
        start = torch.cat([start[:, 2:], start[:, :2]], 1)
    torch.testing.assert_close(found, start.reshape(x.shape), rtol=1e-12, atol=0)


def test_an_inactive_unit_passes_nothing_on() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0, 9.0])
    for relu in (F.relu, F.relu6, lambda x: x.clamp_(min=0), lambda x: F.hardtanh(x, 0, 3)):
        assert signal_at_input(relu, x).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_max_pooling_hands_all_to_the_winner() -> None:
    x = torch.tensor([[[1.0, 5.0, 2.0, 4.0]]])
    assert signal_at_input(lambda x: F.max_pool1d(x, 2), x).tolist() == [[[0, 1, 0, 1]]]


def test_a_product_of_two_activations_keeps_its_ordinary_derivative() -> None:
    pair = torch.tensor([[2.0, 5.0], [3.0, 7.0]])
    assert signal_at_input(lambda x: x[0] * x[1], pair).tolist() == [[3.0, 7.0], [2.0, 5.0]]
    dots = signal_at_input(lambda x: x[0] @ x[1], pair)
    assert dots.tolist() == [[3.0, 7.0], [2.0, 5.0]]


# --- the classifier ---------------------------------------------------------------------------

UNITS = torch.tensor([[1.0, -1.0, 3.0], [-2.0, -2.0, 1.0]])


def handed_down_by(role: str, start: list[list[float]]) -> list[list[float]]:
    x = torch.ones(len(start), 3, requires_grad=True)
    with BackwardRules(excitation_rules()):
        y = F.linear(x, UNITS)
    assert type(y.grad_fn).__name__ == WeightedSum.__name__ + "Backward"
    vars(y.grad_fn)["role"] = role
    (signal,) = torch.autograd.grad(y, x, torch.tensor(start))
    return signal.tolist()


def test_the_dual_unit_has_the_negative_weights() -> None:
    # Of unit 0 the first gets 1/4 and the last 3/4; its dual is excited by the second alone.
    found = handed_down_by("classifier", [[4.0, 0.0], [-4.0, 0.0], [0.0, -4.0]])
    assert found == [[1.0, 0.0, 3.0], [0.0, 4.0, 0.0], [2.0, 2.0, 0.0]]
    # Elsewhere a negative signal is one of the unit itself.
    assert handed_down_by("", [[-4.0, 0.0]]) == [[-1.0, 0.0, -3.0]]


def test_the_contrast_is_the_unit_less_its_dual() -> None:
    assert handed_down_by("contrast", [[4.0, 0.0], [0.0, 4.0]]) == [
        [1.0, -4.0, 3.0],
        [-2.0, -2.0, 4.0],
    ]


def test_weights_that_are_gone_are_no_crash() -> None:
    weight = UNITS.clone()
    x = torch.ones(1, 3, requires_grad=True)
    with BackwardRules(excitation_rules()):
        y = F.linear(x, weight)
    weight.untyped_storage().resize_(0)
    with pytest.raises(ModelError, match="weights that stay in memory"):
        torch.autograd.grad(y.sum(), x)


# --- positive weights -------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("like", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_positive_part(sign: int, like: torch.dtype, layout: torch.memory_format) -> None:
    weight = random(4, 3, 2, 2, dtype=torch.float32).to(memory_format=layout)
    before = weight.clone()
    part = PositiveWeights().part(weight, sign, torch.ones((), dtype=like))
    assert part.dtype == like
    assert torch.equal(part, (sign * before).clamp(min=0).to(like))
    assert torch.equal(weight, before)


def test_the_next_layer_takes_the_same_memory() -> None:
    weights, like = PositiveWeights(), torch.ones(())
    large = weights.part(random(4, 5, dtype=torch.float32), 1, like)
    assert weights.part(UNITS, 1, like).data_ptr() == large.data_ptr()
    # Two layers one after the other, in one backward pass, and each with its own weights.
    x = torch.tensor([[1.0, 1.0]])
    first, second = torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 3.0]])
    found = signal_at_input(lambda x: F.linear(F.linear(x, first).relu(), second), x)
    # All of the signal goes to the second unit, whose sum comes from both in equal parts.
    assert found.tolist() == [[0.5, 0.5]]
