"""ReLU as guided backpropagation and as the deconvolutional network pass it backwards.

Springenberg, Dosovitskiy, Brox, Riedmiller. Striving for simplicity: the all convolutional net.
ICLR workshop 2015, arXiv:1412.6806. Zeiler, Fergus. Visualizing and understanding convolutional
networks. ECCV 2014, arXiv:1311.2901.

What counts as ReLU here, in any spelling and in place or not: ReLU; its other names
``clamp(min=0)``, ``threshold(x, 0, 0)`` and ``maximum(x, 0)``; and ReLU with a ceiling (ReLU6, in
general ``hardtanh`` from 0, or ``clamp`` from 0 to 6). The papers know only the plain ReLU. For one
with a ceiling "where the unit lets the gradient through" is read as "between 0 and the ceiling",
so that guided backpropagation stays what its paper calls it, backpropagation and DeconvNet at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from lightning_saliency.network.backward_rules import Rule, Rules
from lightning_saliency.network.torch_functions import SIGNED_ACTIVATIONS, TorchFunction, spellings

SAME_DERIVATIVE = frozenset({"hardtanh", "relu", "relu6", "threshold"})
"""Functions that :func:`ordinary` passes backwards to the last bit as torch does. The others
(``clamp``, ``maximum``) have another derivative in torch where their input is exactly 0."""

ReluRule: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]
"""What a ReLU passes back: from the gradient G of its output, its output, and its ceiling (inf for
a plain one) to the gradient of its input."""


def guided(gradient: Tensor, output: Tensor, ceiling: float) -> Tensor:
    """Guided backpropagation: where the unit is active and the gradient is positive.

    R = G * [f(x) > 0] * [G > 0].

    Args:
        gradient: of any shape, of the ReLU's output.
        output: of the same shape, the ReLU's output.
        ceiling: above which it is constant; inf for a plain one.

    Returns:
        The gradient of the input, of the same shape.
    """
    # In place, because the derivative is a tensor of our own.
    return ordinary(gradient, output, ceiling).clamp_(min=0)


def deconvnet(gradient: Tensor, output: Tensor, ceiling: float) -> Tensor:
    """Deconvolutional network: where the gradient is positive, be the unit active or not.

    R = max(G, 0).

    Args:
        gradient: of any shape; see :func:`guided`, as for the others.
        output: of the same shape.
        ceiling: of the ReLU.

    Returns:
        Of the same shape.
    """
    return gradient.clamp(min=0)


def active(gradient: Tensor, output: Tensor, ceiling: float) -> Tensor:
    """Excitation backpropagation: where the unit is active, also at its ceiling.

    R = G * [f(x) > 0].

    Args:
        gradient: of any shape; see :func:`guided`, as for the others.
        output: of the same shape.
        ceiling: of the ReLU.

    Returns:
        Of the same shape.
    """
    # What torch's own ReLU does in its backward pass; many times as fast as torch.where.
    passed: Tensor = torch.ops.aten.threshold_backward(gradient, output, 0)
    return passed


def ordinary(gradient: Tensor, output: Tensor, ceiling: float) -> Tensor:
    """The derivative: where the unit is active and below its ceiling.

    R = G * [0 < f(x) < ceiling].

    Args:
        gradient: of any shape; see :func:`guided`, as for the others.
        output: of the same shape.
        ceiling: of the ReLU.

    Returns:
        Of the same shape.
    """
    if ceiling < float("inf"):
        passed: Tensor = torch.ops.aten.hardtanh_backward(gradient, output, 0, ceiling)
        return passed
    return active(gradient, output, ceiling)


NO_RULE = SIGNED_ACTIVATIONS | {"softplus"}
"""Activations that take the place of ReLU and have no published rule. Gates and normalizers
(sigmoid, hardsigmoid, glu, softmax) are not among them: they are passed backwards as always."""


@dataclass
class ReluChoice:
    """The rule by which the ReLUs of a recorded model pass gradients back, chosen late.

    So the graph of one forward pass can be used for backward passes with different rules.

    Args:
        rule: the first value of :attr:`rule`.

    Attributes:
        rule: looked up by each ReLU during a backward pass.
    """

    rule: ReluRule = ordinary

    def rules(self, wanted: Callable[[], bool] = lambda: True) -> Rules:
        """Return the rules for every spelling of ReLU.

        Args:
            wanted: asked at each ReLU; False if no signal will ever arrive there, so that nothing
                need be kept for it.
        """
        return {
            function: _rule(self, wanted, function, ceiling_of, in_place)
            for name, ceiling_of in _RECTIFIERS.items()
            for ending, in_place in (("", False), ("_", True))
            for function in spellings(name + ending)
        }


class _Rectifier(Function):
    """The ordinary forward pass, and a backward pass by the rule that is chosen at the time."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        call: Callable[[Tensor], Tensor],
        in_place: bool,
        ceiling: float,
        choice: ReluChoice,
        is_wanted: bool,
    ) -> Tensor:
        ctx.shape, ctx.ceiling, ctx.choice = x.shape, ceiling, choice
        output = call(x)
        if in_place:
            ctx.mark_dirty(output)
        # DeconvNet does not need it; but a checkpointed block, which is recomputed without the
        # rules, must find as many saved tensors as an ordinary ReLU saves.
        if is_wanted:
            ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (output,) = ctx.saved_tensors
        passed_back = ctx.choice.rule(gradient, output, ctx.ceiling)
        return passed_back.sum_to_size(ctx.shape), None, None, None, None, None


def _rule(
    choice: ReluChoice,
    wanted: Callable[[], bool],
    function: TorchFunction,
    ceiling_of: Callable[..., float | None],
    in_place: bool,
) -> Rule:
    # maximum(0, x) is maximum(x, 0).
    symmetric = ceiling_of is _maximum

    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        if symmetric and args and isinstance(args[0], Tensor) and _is_zero(input):
            input, args = args[0], (input, *args[1:])
        ceiling = ceiling_of(*args, **kwargs)
        if ceiling is None or not input.is_floating_point():
            return NotImplemented
        changes_input = in_place or asks_in_place(args, kwargs)

        def call(x: Tensor) -> Any:
            return function(x, *args, **kwargs)

        return _Rectifier.apply(input, call, changes_input, ceiling, choice, wanted())

    return rule


def asks_in_place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an activation of torch.nn.functional is to write into its input.

    Args:
        args: what it was called with after its input; the only bool that it takes means this.
        kwargs: the same, by name.
    """
    return bool(kwargs.get("inplace", False)) or any(value is True for value in args)


# For each function by its plain name: from its arguments after the first to the ceiling above which
# it is constant, or None where with these arguments it is no ReLU.


def _relu(*_args: Any, **_kwargs: Any) -> float | None:
    return float("inf")


def _relu6(*_args: Any, **_kwargs: Any) -> float | None:
    return 6.0


def _hardtanh(min_val: Any = -1.0, max_val: Any = 1.0, *_args: Any, **_kwargs: Any) -> float | None:
    return float(max_val) if _is_zero(min_val) and isinstance(max_val, Real) else None


def _clamp(min: Any = None, max: Any = None, **_kwargs: Any) -> float | None:
    if not _is_zero(min):
        return None
    if max is None:
        return float("inf")
    # Any other range is that of a picture, a probability or a box, not of an activation.
    return 6.0 if isinstance(max, Real) and float(max) == 6.0 else None


def _clamp_min(min: Any, **_kwargs: Any) -> float | None:
    return float("inf") if _is_zero(min) else None


def _threshold(threshold: Any, value: Any, *_args: Any, **_kwargs: Any) -> float | None:
    return float("inf") if _is_zero(threshold) and _is_zero(value) else None


def _maximum(other: Any = None, *_args: Any, **_kwargs: Any) -> float | None:
    return float("inf") if isinstance(other, Tensor) and _is_zero(other) else None


def _is_zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.requires_grad and not bool(torch.count_nonzero(value))
    return isinstance(value, Real) and float(value) == 0.0


_RECTIFIERS: dict[str, Callable[..., float | None]] = {
    "relu": _relu,
    "relu6": _relu6,
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp_min,
    "threshold": _threshold,
    "maximum": _maximum,
    "max": _maximum,
}
