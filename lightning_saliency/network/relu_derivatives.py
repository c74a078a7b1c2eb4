"""What a ReLU passes back in a backward pass: four rules, as functions on tensors.

Springenberg, Dosovitskiy, Brox, Riedmiller. Striving for simplicity: the all convolutional net.
ICLR workshop 2015, arXiv:1412.6806. Zeiler, Fergus. Visualizing and understanding convolutional
networks. ECCV 2014, arXiv:1311.2901.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["ReluRule", "SAME_DERIVATIVE", "active", "deconvnet", "guided", "ordinary"]

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
    return _where_active(gradient, output)


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
    return _where_active(gradient, output)


def _where_active(gradient: Tensor, output: Tensor) -> Tensor:
    # What torch's own ReLU does in its backward pass; many times as fast as torch.where.
    passed: Tensor = torch.ops.aten.threshold_backward(gradient, output, 0)
    return passed
