"""How excitation backpropagation passes its signal backwards through each function of a network.

Zhang, Bargal, Lin, Brandt, Shen, Sclaroff. Top-down neural attention by excitation backprop. IJCV
2018 (ECCV 2016), arXiv:1608.00507.

A unit passes its winning probability back to the units a_j that it is computed from, each in
proportion to its excitatory share a_j max(w_j, 0). For any weighted sum this is one formula: with
f⁺ the same function with the positive parts of its weights and without bias, the signal s at the
output becomes x · VJP_{f⁺}(s / f⁺(x)) at the input x.

=====================================  =========================================================
convolution, linear, matrix product    the formula, for the operand that comes from the image
pooling by averages, mean, sum,        the formula; the weights are positive already
interpolation
addition of activations                split in proportion to the summands
subtraction of activations             all to the first; the other has the weight -1
normalization, multiplication by and   passed on: they scale and shift single units
addition of constants
ReLU, max pooling, concatenation,      as always: the ordinary derivative is the rule
dropout, reshaping
ReLU6, sigmoid, softplus, softmax      passed on: the paper's signal goes from activation to
                                       activation, whatever the non-linearity
activations that can be negative       refused: the rule needs activations >= 0
=====================================  =========================================================

Products of two activations (gates, attention) have no rule; their ordinary derivative does not
keep the sum of the signal.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_saliency.network.backward_rules import Rule, Rules
from lightning_saliency.network.excitation_functions import (
    PassThrough,
    PositiveWeights,
    SplitSum,
    WeightedSum,
)
from lightning_saliency.network.relu_rules import ReluChoice, active, asks_in_place
from lightning_saliency.network.torch_functions import (
    SIGNED_ACTIVATIONS,
    TorchFunction,
    function_name,
    spellings,
)

REFUSED = SIGNED_ACTIVATIONS
"""Activations that break the rule's first assumption, that every activation is >= 0."""


_Wanted: TypeAlias = Callable[[], bool]


@dataclass
class Domain:
    """What the rules met outside of what they are for.

    Attributes:
        products: names of functions that multiplied two activations.
        negative: weights of layers, and how much of the signal their negative inputs got.
    """

    products: list[str] = field(default_factory=list)
    # The weights of a sharded model may be gone by the time that they are printed.
    negative: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False)


def excitation_rules(
    wanted: Callable[[], bool] = lambda: True, domain: Domain | None = None
) -> Rules:
    """Return the rules of excitation backpropagation for one pass; see the table of this module.

    The parameters must be frozen: what needs a gradient is taken to come from the image.

    Args:
        wanted: asked at each function; False if no signal will ever arrive there. All that is
            recorded then is what comes from the image: activations that are kept are memory, and
            on a CPU that takes as long as the layers.
        domain: is filled in during the forward and the backward pass.
    """
    weights = PositiveWeights()
    domain = Domain() if domain is None else domain
    layers = _Layers(weights, wanted, domain)
    return {
        **{f: product(f, layers) for f, product in _each_function(_PRODUCTS)},
        **{f: _sum(f, wanted, sign, in_place) for f, sign, in_place in _each_function(_SUMS)},
        **{
            f: _scaling(f, wanted, domain, in_place, either)
            for f, in_place, either in _each_function(_SCALINGS)
        },
        **{f: make(f) for f, make in _each_function(_OTHERS)},
        **{f: pool(f, wanted) for f, pool in _each_function(_POOLS)},
        **ReluChoice(active).rules(wanted),
    }


def _each_function(table: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table once for each function that the names in its first column mean."""
    return ((f, *rest) for names, *rest in table for f in spellings(*names.split()))


@dataclass(frozen=True)
class _Layers:
    """Makes weighted sums of products, of which one factor comes from the image."""

    weights: PositiveWeights
    wanted: _Wanted
    domain: Domain

    def product(
        self, a: Tensor, b: Tensor, call: Callable[..., Any], multiply: Callable[..., Any]
    ) -> Any:
        """Pass the signal back to the factor that comes from the image; the other has the weights.

        ``multiply`` is ``call`` without bias.
        """
        is_wanted = self.wanted()
        if _from_image(a) and _from_image(b):
            if is_wanted:
                self.domain.products.append("matmul")
            return NotImplemented
        x, weight = (b, a) if _from_image(b) else (a, b)

        def call_with(x: Tensor) -> Any:
            return call(a, x) if x_is_second else call(x, b)

        def excite(x: Tensor, sign: int) -> Any:
            part = self.weights.part(weight, sign, x)
            return multiply(part, x) if x_is_second else multiply(x, part)

        x_is_second = x is b
        is_first = is_wanted and _is_image(x)
        return WeightedSum.apply(
            x, call_with, excite, True, is_wanted, is_first, partial(self._meet, weight)
        )

    def _meet(self, weight: Tensor, share: Tensor) -> None:
        self.domain.negative.append((weight, share))


# No preparation of an image takes more steps before its first layer.
_MOST_STEPS = 30


def _is_image(x: Tensor) -> bool:
    """Whether only scaling, shifting and reshaping stand between the image and ``x``."""
    node = x.grad_fn
    for _ in range(_MOST_STEPS):
        if node is None:
            return True
        below = [inner for inner, _ in node.next_functions if inner is not None]
        # Few functions of torch have a class of their own here; FSDP's stand at the input.
        function = getattr(type(node), "_forward_cls", PassThrough)
        is_ours = function is not PassThrough and not function.__module__.startswith("torch.")
        if len(below) > 1 or is_ours:
            return False
        node = below[0] if below else None
    return False


def _layer(function: TorchFunction, layers: _Layers) -> Rule:
    def rule(input: Tensor, weight: Tensor, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        def layer(x: Tensor, weight: Tensor, bias: Any = None) -> Any:
            return function(x, weight, bias, *args, **kwargs)

        return layers.product(input, weight, partial(layer, bias=bias), layer)

    return rule


def _product(function: TorchFunction, layers: _Layers) -> Rule:
    def rule(input: Tensor, *others: Any, **kwargs: Any) -> Any:
        if len(others) != 1 or kwargs:
            return NotImplemented
        return layers.product(input, others[0], function, function)

    return rule


def _biased_product(function: TorchFunction, layers: _Layers) -> Rule:
    def rule(input: Tensor, *factors: Any, **kwargs: Any) -> Any:
        # What comes from the image is no bias, and an addition in disguise has no rule.
        if len(factors) != 2 or _from_image(input):
            return NotImplemented
        call = partial(function, input, **kwargs)
        return layers.product(factors[0], factors[1], call, torch.matmul)

    return rule


def _einsum(function: TorchFunction, layers: _Layers) -> Rule:
    def rule(equation: str, *operands: Any) -> Any:
        factors = operands[0] if isinstance(operands[0], (list, tuple)) else operands
        if len(factors) != 2:
            return NotImplemented
        multiply = partial(function, equation)
        return layers.product(factors[0], factors[1], multiply, multiply)

    return rule


def _from_image(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _average(function: TorchFunction, wanted: _Wanted) -> Rule:
    def rule(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        def average(x: Tensor, _sign: int = 1) -> Any:
            return function(x, *args, **kwargs)

        # A clone, because a model may write into what it has averaged.
        return WeightedSum.apply(input.clone(), average, average, False, wanted())

    return rule


def _sum(function: TorchFunction, wanted: _Wanted, sign: int, in_place: bool) -> Rule:
    def rule(input: Any, other: Any, *, alpha: float = 1, **kwargs: Any) -> Any:
        if not (_from_image(input) and _from_image(other) and wanted()):
            return NotImplemented
        call = partial(function, alpha=alpha, **kwargs)
        return SplitSum.apply(input, other, call, sign * alpha, in_place)

    return rule


def _scaling(
    function: TorchFunction, wanted: _Wanted, domain: Domain, in_place: bool, either: bool
) -> Rule:
    def rule(input: Any, other: Any, **kwargs: Any) -> Any:
        if _from_image(input) and not _from_image(other):
            return PassThrough.apply(input, lambda x: function(x, other, **kwargs), in_place)
        if _from_image(other) and not _from_image(input) and either:
            return PassThrough.apply(other, lambda x: function(input, x, **kwargs), False)
        if _from_image(input) and _from_image(other) and wanted():
            domain.products.append(function_name(function))
        return NotImplemented

    return rule


def _norm(function: TorchFunction) -> Rule:
    def rule(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        return PassThrough.apply(input, lambda x: function(x, *args, **kwargs), False)

    return rule


def _selection(function: TorchFunction, wanted: _Wanted) -> Rule:
    def rule(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        # The ordinary derivative is the rule, but it keeps the input and where the largest were. A
        # flag may ask for that, too.
        with_indices = kwargs.get("return_indices") or any(value is True for value in args)
        if wanted() or with_indices or not _from_image(input):
            return NotImplemented
        return PassThrough.apply(input, lambda x: function(x, *args, **kwargs), False)

    return rule


def _unit(function: TorchFunction, *, in_place: bool = False) -> Rule:
    def rule(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        writes = in_place or asks_in_place(args, kwargs)
        return PassThrough.apply(input, lambda x: function(x, *args, **kwargs), writes)

    return rule


_PRODUCTS: list[tuple[str, Callable[[TorchFunction, _Layers], Rule]]] = [
    ("linear conv1d conv2d conv3d convolution", _layer),
    ("conv_transpose1d conv_transpose2d conv_transpose3d", _layer),
    ("matmul mm bmm mv __matmul__ __rmatmul__", _product),
    ("addmm baddbmm", _biased_product),
    ("einsum", _einsum),
]

# Names, the sign of the second summand, whether they write into the first.
_SUMS: list[tuple[str, int, bool]] = [
    ("add __add__ __radd__", 1, False),
    ("add_ __iadd__", 1, True),
    ("sub subtract __sub__", -1, False),
    ("sub_ subtract_ __isub__", -1, True),
]

_POOLS: list[tuple[str, Callable[[TorchFunction, _Wanted], Rule]]] = [
    ("avg_pool1d avg_pool2d avg_pool3d mean sum interpolate", _average),
    ("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", _average),
    ("max_pool1d max_pool2d max_pool3d", _selection),
    ("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d", _selection),
]

# Names, whether they write into the first factor, whether either factor may be the activation.
_SCALINGS: list[tuple[str, bool, bool]] = [
    ("mul multiply __mul__ __rmul__", False, True),
    ("mul_ multiply_ __imul__", True, False),
    ("div divide true_divide __truediv__", False, False),
    ("div_ divide_ true_divide_ __itruediv__", True, False),
]

_OTHERS: list[tuple[str, Callable[[TorchFunction], Rule]]] = [
    ("batch_norm layer_norm group_norm instance_norm local_response_norm", _norm),
    ("sigmoid hardsigmoid softplus softmax log_softmax", _unit),
    ("sigmoid_ hardsigmoid_", partial(_unit, in_place=True)),
]
