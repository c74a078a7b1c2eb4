"""Name torch functions, and find all the objects that one of them goes by."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch._ops import OpOverload

TorchFunction: TypeAlias = Callable[..., Any]
"""What a model calls: ``torch.relu``, ``torch.nn.functional.relu``, ``torch.Tensor.relu``, ..."""

SIGNED_ACTIVATIONS = frozenset(
    {
        *("celu", "elu", "gelu", "hardshrink", "hardswish", "hardtanh", "leaky_relu", "mish"),
        *("prelu", "rrelu", "selu", "silu", "softshrink", "softsign", "tanh", "tanhshrink"),
    }
)
"""Names of the activations whose output can be negative."""

ACTIVATIONS = SIGNED_ACTIVATIONS | frozenset(
    {"glu", "hardsigmoid", "log_sigmoid", "relu", "relu6", "sigmoid", "softmax", "softplus"}
)
"""Names of the activations that messages report when a model has none that was looked for."""


def spellings(*names: str) -> list[TorchFunction]:
    """Return every object of torch that is called by one of ``names``.

    They are different objects although they compute the same: ``x.relu()`` calls
    ``torch.Tensor.relu``, ``torch.relu(x)`` calls ``torch.relu``, and ``torch.nn.ReLU`` calls
    ``torch.nn.functional.relu``.

    Args:
        names: as they are written, with the underscore of the in-place form (``"relu_"``).
    """
    return list(dict.fromkeys(function for name in names for function in _spellings(name)))


@cache
def _spellings(name: str) -> tuple[TorchFunction, ...]:
    # Not all of torch.nn.functional's names are there in torch._C._nn, nor the other way round.
    owners = (torch, torch.Tensor, F, torch._C._nn, torch.ops.aten)
    found = (getattr(owner, name, None) for owner in owners)
    return tuple(function for function in found if callable(function))


def function_key(function: TorchFunction) -> TorchFunction:
    """Return what stands for ``function`` in a table: overloads stand together for one operator.

    Args:
        function: as it was called; ``torch.ops.aten.relu.default`` becomes
            ``torch.ops.aten.relu``.
    """
    return function.overloadpacket if isinstance(function, OpOverload) else function


def function_name(function: TorchFunction) -> str:
    """Return a function's plain name: ``"relu"`` for every spelling of ReLU, in-place or not.

    Args:
        function: any callable.
    """
    name = getattr(function_key(function), "__name__", type(function).__name__)
    return str(name).strip("_")
