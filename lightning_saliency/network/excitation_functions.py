"""The three ways in which excitation backpropagation passes a signal back, as autograd functions.

All have the ordinary forward value. See :mod:`~lightning_saliency.network.excitation_rules` for
which function of torch gets which.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from lightning_saliency.errors import ModelError


class PositiveWeights:
    """Gives the positive part of a layer's weights, in memory that the next layer's will take.

    On a CPU, memory that has just been asked for costs more than the numbers that go there.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def part(self, weight: Tensor, sign: int, like: Tensor) -> Tensor:
        """Return max(sign · weight, 0), to be read before the next call.

        Args:
            weight: of any shape; needs no gradient.
            sign: 1, or -1 for the negative part.
            like: what it will be multiplied by; the result has its dtype.

        Raises:
            ModelError: the weights are not in memory any more.
        """
        # Reading them all the same would end the process.
        if weight.untyped_storage().nbytes() == 0 < weight.numel():
            raise ModelError(
                "Expected weights that stay in memory, but a sharded model has given its gathered "
                "weights back before excitation backprop was done with them. Explain a whole "
                "copy of the model, or take another method."
            )
        is_plain = type(weight) in (Tensor, torch.nn.Parameter) and weight.is_contiguous()
        if not is_plain or weight.device.type != "cpu" or weight.dtype != like.dtype:
            part = weight.clamp(min=0) if sign > 0 else -weight.clamp(max=0)
            return part.to(like.dtype)
        if self._memory.dtype != weight.dtype or self._memory.numel() < weight.numel():
            self._memory = torch.empty(weight.numel(), dtype=weight.dtype)
        memory = self._memory[: weight.numel()].view(weight.shape)
        if sign > 0:
            return torch.clamp(weight, min=0, out=memory)
        return torch.clamp(weight, max=0, out=memory).neg_()


_Map: TypeAlias = Callable[[Tensor], Tensor]
_Pair: TypeAlias = Callable[[Tensor, Tensor], Tensor]
_Signed: TypeAlias = Callable[[Tensor, int], Tensor]


class WeightedSum(Function):
    """y = f(x): each input gets the share of the signal that it has in f⁺(x).

    ``excite(x, sign)`` is f without bias and with the positive parts of sign · weights. In the
    recorded graph, ``has_weights`` tells a layer from a pooling; ``role`` can be set there to

    * ``"classifier"``: the signal of an image that is negative in all is one of dual units, whose
      weights are the negative ones;
    * ``"contrast"``: the signal of dual units is subtracted.

    Where no signal is wanted, only that ``y`` was made of ``x`` is recorded.

    The rule is for inputs >= 0. Those of the first layer, images that have been normalized, are
    bounded instead, and get the z-B rule of Montavon et al. 2017 (arXiv:1512.02479, equation 14):
    the shares are those in (x - l) · w⁺ + (h - x) · w⁻ with the least and the largest value l and h
    of each image and channel. At other layers ``meet`` is told how much of the signal negative
    inputs get.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        call: _Map,
        excite: _Signed,
        has_weights: bool,
        is_wanted: bool = True,
        is_first: bool = False,
        meet: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Return ``call(x)``."""
        if is_wanted:
            ctx.save_for_backward(x)
        ctx.excite, ctx.has_weights, ctx.role = excite, has_weights, ""
        ctx.is_first, ctx.meet = is_first, meet
        return call(x)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor | None, ...]:
        """Return the signal at ``x``."""
        (x,) = ctx.saved_tensors
        # In half precision the quotients would over- or underflow.
        x = x.detach().to(torch.promote_types(x.dtype, torch.float32)).requires_grad_()
        # Sums over positive weights; on an accelerator, a look at the values would wait for it.
        is_positive = ctx.has_weights and x.is_cpu and bool(x.detach().amin() >= 0)
        passed_back = _bounded if ctx.is_first and not is_positive else _passed_back
        result = passed_back(signal, x, ctx.excite, 1, is_positive)
        if ctx.role == "contrast":
            result = result - passed_back(signal, x, ctx.excite, -1, is_positive)
        elif ctx.role == "classifier":
            is_dual = _is_of_dual_units(signal, x)
            if bool(is_dual.any()):
                dual = passed_back(signal, x, ctx.excite, -1, is_positive)
                result = torch.where(is_dual, -dual, result)
        if ctx.meet is not None and not (ctx.is_first or is_positive):
            ctx.meet(_share_of_negative(x.detach(), result))
        return result, *[None] * 6


def _passed_back(
    signal: Tensor, x: Tensor, excite: _Signed, sign: int, is_positive: bool
) -> Tensor:
    with torch.enable_grad():
        excitation = excite(x, sign)
    divisor = _divisor(excitation.detach(), is_positive)
    (weighted,) = torch.autograd.grad(excitation, x, _quotient(signal, divisor))
    # The gradient of a mean is one number that only looks like many.
    if weighted.is_contiguous() and weighted.dtype == x.dtype:
        return weighted.mul_(x.detach())
    return x.detach() * weighted


def _share_of_negative(x: Tensor, result: Tensor) -> Tensor:
    size = result.abs()
    return size.where(x < 0, 0).sum() / size.sum().clamp(min=torch.finfo(size.dtype).tiny)


def _bounded(signal: Tensor, x: Tensor, excite: _Signed, sign: int, is_positive: bool) -> Tensor:
    """Return the signal at the first layer's input by the z-B rule; of images >= 0 as always."""
    value = x.detach()
    axes = (2, 3) if value.dim() == 4 else tuple(range(1, value.dim()))
    least, largest = value.amin(axes, keepdim=True), value.amax(axes, keepdim=True)
    above, below = value - least, largest - value
    # One after the other: the positive parts of the weights share their memory.
    total = excite(above, sign)
    total = total + excite(below, -sign)
    quotient = _quotient(signal, _divisor(total))
    result = _weighted(above, excite, sign, quotient) + _weighted(below, excite, -sign, quotient)
    positive = value.flatten(1).amin(1).reshape(-1, *[1] * (value.dim() - 1)) >= 0
    if bool(positive.any()):
        result = torch.where(positive, _passed_back(signal, x, excite, sign, is_positive), result)
    return result


def _weighted(x: Tensor, excite: _Signed, sign: int, quotient: Tensor) -> Tensor:
    x = x.requires_grad_()
    with torch.enable_grad():
        excitation = excite(x, sign)
    (weighted,) = torch.autograd.grad(excitation, x, quotient)
    return x.detach() * weighted


def _is_of_dual_units(signal: Tensor, x: Tensor) -> Tensor:
    """Return (N, 1, ...) of the dimensions of ``x``; (1, 1, ...) if they do not begin alike."""
    rows = len(x) if len(x) == len(signal) else 1
    return (signal.reshape(rows, -1).sum(1) < 0).reshape(rows, *[1] * (x.dim() - 1))


def _quotient(part: Tensor, divisor: Tensor) -> Tensor:
    """Return part / divisor, where it can in the memory of the divisor."""
    if part.dtype == divisor.dtype and part.shape == divisor.shape:
        return torch.div(part, divisor, out=divisor)
    return (part / divisor).to(divisor.dtype)


def _divisor(total: Tensor, is_positive: bool = False) -> Tensor:
    """Return ``total`` with infinity in place of numbers close to 0.

    Division by infinity gives the zeros of the paper; to fill them in afterwards takes many times
    as long.

    Args:
        total: of any shape.
        is_positive: it is >= 0 and not needed any more, so it may be overwritten.
    """
    least = torch.finfo(total.dtype).tiny ** 0.5
    if is_positive:
        return F.threshold(total, least, float("inf"), inplace=True)
    # All in one piece of memory: new ones of the size of activations take longer than the sums.
    return F.threshold(total.abs(), least, float("inf"), inplace=True).copysign_(total)


class SplitSum(Function):
    """y = a + factor · b: each summand gets its share; with a negative factor, a gets all."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, call: _Pair, factor: float, in_place: bool
    ) -> Tensor:
        """Return ``call(a, b)``, which is ``a`` if ``in_place``."""
        wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
        weighted = b if factor == 1 else b.to(wide) * max(factor, 0)
        total = a.to(wide) + weighted.to(wide)
        divisor = _divisor(total)
        # The shares, not the summands: the model may write into those. Into memory that is there.
        of_a = torch.div(a, divisor, out=total)
        ctx.save_for_backward(of_a, torch.div(weighted, divisor, out=divisor))
        ctx.shapes = a.shape, b.shape
        output = call(a, b)
        if in_place:
            ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Return the signals at ``a`` and ``b``."""
        of_a, of_b = (
            (signal * share).sum_to_size(shape)
            for share, shape in zip(ctx.saved_tensors, ctx.shapes, strict=True)
        )
        return of_a, of_b, None, None, None


class PassThrough(Function):
    """y = f(x), unit by unit: the signal is passed on unchanged, whatever f is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: _Map, in_place: bool) -> Tensor:
        """Return ``call(x)``, which is ``x`` if ``in_place``."""
        ctx.shape = x.shape
        output = call(x)
        if in_place:
            ctx.mark_dirty(output)
        elif output._is_view():
            # The model may write into it, as a ReLU after an instance norm does.
            output = output.clone()
        return output

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None, None]:
        """Return the signal, of the shape of ``x``."""
        return signal.sum_to_size(ctx.shape), None, None
