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
from lightning_saliency.network.torch_functions import SIGNED_ACTIVATIONS, TorchFunction, spellings

REFUSED = SIGNED_ACTIVATIONS
"""Activations that break the rule's first assumption, that every activation is >= 0."""


_Wanted: TypeAlias = Callable[[], bool]


def excitation_rules(wanted: Callable[[], bool] = lambda: True) -> Rules:
    """Return the rules of excitation backpropagation for one pass; see the table of this module.

    The parameters must be frozen: what needs a gradient is taken to come from the image.

    Args:
        wanted: asked at each function; False if no signal will ever arrive there. All that is
            recorded then is what comes from the image: activations that are kept are memory, and
            on a CPU that takes as long as the layers.
    """
    weights = PositiveWeights()
    return {
        **{f: product(f, weights, wanted) for f, product in _each_function(_PRODUCTS)},
        **{f: _sum(f, wanted, sign, in_place) for f, sign, in_place in _each_function(_SUMS)},
        **{f: make(f) for f, make in _each_function(_OTHERS)},
        **{f: pool(f, wanted) for f, pool in _each_function(_POOLS)},
        **ReluChoice(active).rules(wanted),
    }


def _each_function(table: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table once for each function that the names in its first column mean."""
    return ((f, *rest) for names, *rest in table for f in spellings(*names.split()))


def _layer(function: TorchFunction, weights: PositiveWeights, wanted: _Wanted) -> Rule:
    def rule(input: Tensor, weight: Tensor, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        def layer(x: Tensor, weight: Tensor, bias: Any = None) -> Any:
            return function(x, weight, bias, *args, **kwargs)

        return _product_of(input, weight, weights, partial(layer, bias=bias), layer, wanted())

    return rule


def _product(function: TorchFunction, weights: PositiveWeights, wanted: _Wanted) -> Rule:
    def rule(input: Tensor, *others: Any, **kwargs: Any) -> Any:
        if len(others) != 1 or kwargs:
            return NotImplemented
        return _product_of(input, others[0], weights, function, function, wanted())

    return rule


def _biased_product(function: TorchFunction, weights: PositiveWeights, wanted: _Wanted) -> Rule:
    def rule(input: Tensor, *factors: Any, **kwargs: Any) -> Any:
        # What comes from the image is no bias, and an addition in disguise has no rule.
        if len(factors) != 2 or _from_image(input):
            return NotImplemented
        call = partial(function, input, **kwargs)
        return _product_of(factors[0], factors[1], weights, call, torch.matmul, wanted())

    return rule


def _einsum(function: TorchFunction, weights: PositiveWeights, wanted: _Wanted) -> Rule:
    def rule(equation: str, *operands: Any) -> Any:
        factors = operands[0] if isinstance(operands[0], (list, tuple)) else operands
        if len(factors) != 2:
            return NotImplemented
        multiply = partial(function, equation)
        return _product_of(factors[0], factors[1], weights, multiply, multiply, wanted())

    return rule


def _product_of(
    a: Tensor,
    b: Tensor,
    weights: PositiveWeights,
    call: Callable[..., Any],
    multiply: Callable[..., Any],
    is_wanted: bool,
) -> Any:
    """Pass the signal back to the factor that comes from the image; the other holds the weights.

    ``multiply`` is ``call`` without bias.
    """
    if _from_image(a) and _from_image(b):
        return NotImplemented
    swapped = _from_image(b)
    passed, weight = (b, a) if swapped else (a, b)

    def ordered(function: Callable[..., Any], x: Tensor, weight: Tensor) -> Any:
        return function(weight, x) if swapped else function(x, weight)

    def excite(x: Tensor, sign: int) -> Any:
        return ordered(multiply, x, weights.part(weight, sign, x))

    return WeightedSum.apply(passed, lambda x: ordered(call, x, weight), excite, True, is_wanted)


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


def _scaling(function: TorchFunction, *, in_place: bool = False, either: bool = True) -> Rule:
    def rule(input: Any, other: Any, **kwargs: Any) -> Any:
        if _from_image(input) and not _from_image(other):
            return PassThrough.apply(input, lambda x: function(x, other, **kwargs), in_place)
        if _from_image(other) and not _from_image(input) and either:
            return PassThrough.apply(other, lambda x: function(input, x, **kwargs), False)
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


_PRODUCTS: list[tuple[str, Callable[[TorchFunction, PositiveWeights, _Wanted], Rule]]] = [
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

_OTHERS: list[tuple[str, Callable[[TorchFunction], Rule]]] = [
    ("mul multiply __mul__ __rmul__", _scaling),
    ("mul_ multiply_ __imul__", partial(_scaling, in_place=True, either=False)),
    ("div divide true_divide __truediv__", partial(_scaling, either=False)),
    ("div_ divide_ true_divide_ __itruediv__", partial(_scaling, in_place=True, either=False)),
    ("batch_norm layer_norm group_norm instance_norm local_response_norm", _norm),
    ("sigmoid hardsigmoid softplus softmax log_softmax", _unit),
    ("sigmoid_ hardsigmoid_", partial(_unit, in_place=True)),
]
