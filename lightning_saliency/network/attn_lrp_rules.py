"""How AttnLRP passes relevance backwards through each function of a network.

Achtibat, Hatefi, Dreyer, Jain, Wiegand, Lapuschkin, Samek. AttnLRP: attention-aware layer-wise
relevance propagation for transformers. ICML 2024, arXiv:2402.05602.

With a vanishing stabilizer, the relevance of a value is the value times a modified gradient. Linear
layers, sums, pooling, softmax and piecewise linear activations keep their ordinary derivative;
the others have this one:

=====================================  =========================================================
GELU, SiLU, hardswish, mish, ELU,      f(x) / x, the slope of the line through zero; f'(0) at 0
SELU, tanh, ...
layer, group, RMS norm, normalize      the deviation is a constant, the mean stays linear
product of two activations: matmul,    half of the derivative to each factor
einsum, ``*``, attention
sigmoid, hardsigmoid, erf, rsqrt,      the output is a constant: a gate weighs what passes, and
var, std, norm                         carries nothing itself
division by an activation              the divisor is a constant
softmax, in the "cp" variant           the output is a constant (CP-LRP, Ali et al. 2022)
=====================================  =========================================================

With ``gamma`` > 0 convolutions and linear layers favor what speaks for a unit's sign (Montavon et
al. 2019; for inputs of either sign Andeol et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from lightning_saliency.errors import ModelError
from lightning_saliency.network.backward_rules import Rule, Rules
from lightning_saliency.network.relu_rules import asks_in_place
from lightning_saliency.network.torch_functions import TorchFunction, spellings

SoftmaxRule: TypeAlias = Literal["attnlrp", "cp"]
"""``"attnlrp"``: the derivative of softmax; ``"cp"``: attention is a constant, which conserves."""


@dataclass(frozen=True)
class AttnLRPRules:
    """Settings of the rules.

    Attributes:
        softmax: see :data:`SoftmaxRule`.
        conv_gamma: of convolutions, >= 0.
        linear_gamma: of linear layers, >= 0.
    """

    softmax: SoftmaxRule = "attnlrp"
    conv_gamma: float = 0.0
    linear_gamma: float = 0.0


def attn_lrp_rules(settings: AttnLRPRules) -> Rules:
    """Return the rules for one pass; see the table of this module.

    The parameters must be frozen: what needs a gradient is taken to come from the image.

    Args:
        settings: of the rules.
    """
    rules: dict[TorchFunction | str, Rule | None] = {}

    def add(names: str, make: Callable[[TorchFunction], Rule]) -> None:
        rules.update({function: make(function) for function in spellings(*names.split())})

    for name, slope in _SLOPES.items():
        add(name, partial(_activation, slope=slope, in_place=False))
        add(f"{name}_", partial(_activation, slope=slope, in_place=True))
    add("sigmoid hardsigmoid erf rsqrt var std norm", _constant)
    add("sigmoid_ hardsigmoid_ rsqrt_", _constant)
    add("matmul mm bmm mv __matmul__ __rmatmul__ mul multiply __mul__ __rmul__", _product)
    add("mul_ multiply_ __imul__", partial(_product, in_place=True))
    add("addmm baddbmm", _biased_product)
    add("einsum", _einsum)
    add("div divide true_divide __truediv__ __rtruediv__", _quotient)
    add("div_ divide_ true_divide_ __itruediv__", _quotient)
    add("layer_norm", lambda _: _layer_norm)
    add("group_norm", _group_norm)
    add("rms_norm", lambda _: _rms_norm)
    add("normalize", lambda _: _normalize)
    add("glu", lambda _: _glu)
    add("softmax", partial(_softmax, settings=settings))
    add("scaled_dot_product_attention", lambda _: partial(_attention, settings=settings))
    add("multi_head_attention_forward", lambda _: partial(_multi_head, settings=settings))
    if settings.linear_gamma > 0:
        add("linear", partial(_weighted, gamma=settings.linear_gamma))
    if settings.conv_gamma > 0:
        add("conv1d conv2d conv3d", partial(_weighted, gamma=settings.conv_gamma))
    return rules


def refuse_nonlinear(scores: Tensor) -> None:
    """Raise if relevance passes through a function that there is no rule for.

    Args:
        scores: of shape (N,), recorded under the rules.

    Raises:
        ModelError: it does.
    """
    waiting, seen, names = [scores.grad_fn], set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting.extend(inner for inner, _ in node.next_functions)
        plain = node.name().partition("Backward")[0]
        if plain in _NONLINEAR:
            names.add(plain.lower())
    if names:
        raise ModelError(
            "Expected a model of functions that AttnLRP has rules for, but relevance passes "
            f"through {' and '.join(sorted(names))}. Take LinearApprox, Gradient or RISE, or give "
            "rules={torch function: rule} for the function that contains it."
        )


# The derivative at 0 of what is applied to each unit.
_SLOPES = {
    "gelu": 0.5,
    "silu": 0.5,
    "hardswish": 0.5,
    "mish": math.tanh(math.log(2)),
    "elu": 1.0,
    "celu": 1.0,
    "selu": 1.0507009873554805 * 1.6732632423543772,
    "tanh": 1.0,
    "softsign": 1.0,
}

_NONLINEAR = {
    *("Exp", "Exp2", "Expm1", "Pow", "Log", "Log1P", "Log2", "Log10", "Sqrt", "Softplus", "Sin"),
    *("Cos", "Tan", "Atan", "Sinh", "Cosh", "Asin", "Acos", "Reciprocal", "Prod", "Cumprod"),
    *("LogSigmoid", "Erf", "Sigmoid", "Tanh", "Gelu", "Silu", "Hardswish", "Mish", "Elu"),
    *("NativeLayerNorm", "NativeGroupNorm", "CudnnRnn", "ThnnFusedLstmCell", "MkldnnRnnLayer"),
    *("ScaledDotProductFlashAttention", "ScaledDotProductEfficientAttention", "Logsumexp"),
    *("ScaledDotProductFlashAttentionForCpu", "Std", "Var", "StdMean", "VarMean"),
    *("LinalgVectorNorm", "Norm"),
}


def _from_image(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


class _Slope(Function):
    """y, as ``value`` returns it, with a given slope as its derivative by x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Callable[[], Tensor], slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return _own(value())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None


def _own(y: Tensor) -> Tensor:
    # The model may write into what it gets, which must then be no view.
    return y.clone() if y._is_view() else y


class _Half(Function):
    """x, with half of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / 2


def _half(x: Any) -> Any:
    return _Half.apply(x)


def _activation(function: TorchFunction, slope: float, in_place: bool) -> Rule:
    def rule(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not _from_image(input):
            return NotImplemented
        x = input.detach()
        # A clone, because the function may be told to write into it.
        y = function(x.clone(), *args, **kwargs)
        slopes = torch.where(x == 0, torch.full_like(x, slope), y / x)
        output = _Slope.apply(input, lambda: y, slopes)
        return input.copy_(output) if in_place or asks_in_place(args, kwargs) else output

    return rule


def _constant(function: TorchFunction) -> Rule:
    def rule(input: Any, *args: Any, **kwargs: Any) -> Any:
        if not _from_image(input):
            return NotImplemented
        # A clone, because the function may write into it.
        return function(input.detach().clone(), *args, **kwargs)

    return rule


def _product(function: TorchFunction, in_place: bool = False) -> Rule:
    def rule(input: Any, other: Any = NotImplemented, **kwargs: Any) -> Any:
        if not (_from_image(input) and _from_image(other)):
            return NotImplemented
        output = function(_half(input), _half(other), **kwargs) if not in_place else None
        return input.copy_(_half(input) * _half(other)) if in_place else output

    return rule


def _biased_product(function: TorchFunction) -> Rule:
    def rule(input: Any, a: Any, b: Any, **kwargs: Any) -> Any:
        if not (_from_image(a) and _from_image(b)):
            return NotImplemented
        return function(input, _half(a), _half(b), **kwargs)

    return rule


def _einsum(function: TorchFunction) -> Rule:
    def rule(equation: str, *operands: Any) -> Any:
        factors = operands[0] if isinstance(operands[0], (list, tuple)) else operands
        if sum(map(_from_image, factors)) < 2:
            return NotImplemented
        if sum(map(_from_image, factors)) > 2:
            raise ModelError(
                "Expected products of at most two activations for AttnLRP, but einsum multiplies "
                f"{len(factors)}. Take another method."
            )
        return function(equation, *[_half(f) if _from_image(f) else f for f in factors])

    return rule


def _quotient(function: TorchFunction) -> Rule:
    def rule(input: Any, other: Any, **kwargs: Any) -> Any:
        if not _from_image(other):
            return NotImplemented
        return function(input, other.detach(), **kwargs)

    return rule


class _Normalized(Function):
    """y, with the derivative of (x - mean) · scale, of which the scale is a constant."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, value: Callable[[], Tensor], scale: Tensor, axes: Any
    ) -> Tensor:
        ctx.save_for_backward(scale)
        ctx.axes = axes
        return _own(value())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (scale,) = ctx.saved_tensors
        passed = gradient * scale
        return passed - passed.mean(ctx.axes, keepdim=True), None, None, None


def _layer_norm(
    input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    if not _from_image(input):
        return NotImplemented
    shape = list(normalized_shape)
    y, _, inverse = torch.native_layer_norm(input.detach(), shape, weight, bias, eps)
    scale = inverse.to(y.dtype) if weight is None else inverse.to(y.dtype) * weight
    return _Normalized.apply(input, lambda: y, scale, tuple(range(-len(shape), 0)))


def _group_norm(function: TorchFunction) -> Rule:
    def rule(
        input: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Any:
        if not _from_image(input):
            return NotImplemented
        groups = input.reshape(len(input), num_groups, -1)
        variance = groups.detach().float().var(2, correction=0, keepdim=True)
        inverse = (variance + eps).rsqrt().to(input.dtype)
        linear = ((groups - groups.mean(2, keepdim=True)) * inverse).reshape(input.shape)
        if weight is not None:
            linear = linear * weight.reshape(-1, *[1] * (input.dim() - 2))
        y = function(input.detach(), num_groups, weight, bias, eps)
        return _Slope.apply(linear, lambda: y, torch.ones((), dtype=y.dtype, device=y.device))

    return rule


def _rms_norm(
    input: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Any:
    if not _from_image(input):
        return NotImplemented
    x, shape = input.detach(), list(normalized_shape)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    inverse = (x.float().square().mean(tuple(range(-len(shape), 0)), keepdim=True) + eps).rsqrt()
    scale = inverse.to(x.dtype) if weight is None else inverse.to(x.dtype) * weight
    return _Slope.apply(input, lambda: F.rms_norm(x, shape, weight, eps), scale)


def _normalize(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None
) -> Any:
    if not _from_image(input) or out is not None:
        return NotImplemented
    length = input.detach().norm(p, dim, keepdim=True).clamp_min(eps)
    return _Slope.apply(input, lambda: F.normalize(input.detach(), p, dim, eps), 1 / length)


def _glu(input: Tensor, dim: int = -1) -> Any:
    if not _from_image(input):
        return NotImplemented
    carried, gate = input.chunk(2, dim)
    return carried * gate.detach().sigmoid()


def _softmax(function: TorchFunction, settings: AttnLRPRules) -> Rule:
    def rule(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        if settings.softmax == "attnlrp" or not _from_image(input):
            return NotImplemented
        return function(input.detach(), *args, **kwargs)

    return rule


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    settings: AttnLRPRules,
) -> Any:
    if not any(map(_from_image, (query, key, value))):
        return NotImplemented
    if dropout_p > 0:
        raise ModelError(
            "Expected attention without dropout for AttnLRP, got dropout_p="
            f"{dropout_p} in eval mode. Pass dropout_p=self.p if self.training else 0."
        )
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = _times(query * scale, key.transpose(-2, -1))
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    if attn_mask is not None:
        is_bool = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if is_bool else scores + attn_mask
    weights = scores.softmax(-1)
    return _times(weights.detach() if settings.softmax == "cp" else weights, value)


def _times(a: Tensor, b: Tensor) -> Tensor:
    both = a.requires_grad and b.requires_grad
    return torch.matmul(_half(a), _half(b)) if both else torch.matmul(a, b)


# The arguments of torch's function, in their order.
_MULTI_HEAD = (
    *("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight"),
    *("in_proj_bias", "bias_k", "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight"),
    *("out_proj_bias", "training", "key_padding_mask", "need_weights", "attn_mask"),
    *("use_separate_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
    *("static_k", "static_v", "average_attn_weights", "is_causal"),
)


def _multi_head(*args: Any, settings: AttnLRPRules, **kwargs: Any) -> Any:
    given = {**dict(zip(_MULTI_HEAD, args, strict=False)), **kwargs}
    without = ("key_padding_mask", "bias_k", "bias_v", "static_k", "static_v")
    refused = [name for name in without if given.get(name) is not None]
    if refused or given.get("add_zero_attn"):
        raise ModelError(
            f"Expected attention without {', '.join(refused) or 'add_zero_attn'} for AttnLRP, for "
            "which it has no rule. Take another method."
        )
    inputs = [given["query"], given["key"], given["value"]]
    if not any(map(_from_image, inputs)):
        return NotImplemented
    linear = _linear_of(settings)
    is_batched = inputs[0].dim() == 3
    heads = []
    for x, weight, bias in zip(inputs, *_projections(given), strict=True):
        part = linear(x if is_batched else x[:, None], weight, bias)
        # (T, N, K) to (N, heads, T, d)
        heads.append(part.reshape(*part.shape[:2], given["num_heads"], -1).permute(1, 2, 0, 3))
    mask = given.get("attn_mask")
    if mask is not None and mask.dtype == torch.bool:
        # Here True is what may not be seen.
        mask = ~mask
    if mask is not None and mask.dim() == 3:
        mask = mask.reshape(-1, given["num_heads"], *mask.shape[1:])
    query, key, value = heads
    seen = _attention(query, key, value, mask, settings=settings)
    output = linear(
        seen.permute(2, 0, 1, 3).flatten(2), given["out_proj_weight"], given["out_proj_bias"]
    )
    return (output if is_batched else output[:, 0]), None


def _projections(given: Mapping[str, Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    bias = given["in_proj_bias"]
    biases = [None] * 3 if bias is None else bias.chunk(3)
    if given.get("use_separate_proj_weight"):
        return [given[f"{name}_proj_weight"] for name in "qkv"], biases
    return given["in_proj_weight"].chunk(3), biases


def _linear_of(settings: AttnLRPRules) -> Callable[..., Any]:
    if settings.linear_gamma > 0:
        return _weighted(F.linear, gamma=settings.linear_gamma)
    return F.linear


def _weighted(function: TorchFunction, gamma: float) -> Rule:
    def rule(input: Tensor, weight: Tensor, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not _from_image(input) or _from_image(weight):
            return NotImplemented

        def layer(x: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
            output: Tensor = function(x, weight, bias, *args, **kwargs)
            return output

        return _Gamma.apply(input, weight, bias, layer, gamma)

    return rule


class _Gamma(Function):
    """A layer whose weights of a unit's own sign count 1 + gamma times."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Any, layer: Callable[..., Tensor], gamma: float
    ) -> Tensor:
        # A copy, because the model may write into it.
        ctx.save_for_backward(x.clone(), weight, bias)
        ctx.layer, ctx.gamma = layer, gamma
        return layer(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        x, weight, bias = ctx.saved_tensors
        more = weight + ctx.gamma * weight.clamp(min=0), weight + ctx.gamma * weight.clamp(max=0)
        ends = [x.clamp(min=0).requires_grad_(), x.clamp(max=0).requires_grad_()]
        output = ctx.layer(x, weight, bias)
        relevance = gradient * output
        passed = [torch.zeros_like(x), torch.zeros_like(x)]
        # Units above 0 favor what is above 0, others what is below.
        for weights, is_kept in ((more, output > 0), (more[::-1], output < 0)):
            with torch.enable_grad():
                total = ctx.layer(ends[0], weights[0], bias) + ctx.layer(ends[1], weights[1])
            share = torch.where(is_kept, relevance / total.detach(), 0)
            for place, found in enumerate(torch.autograd.grad(total, ends, share)):
                passed[place] = passed[place] + found
        return torch.where(x > 0, passed[0], passed[1]), None, None, None, None
