"""Try a model twice: does its answer depend on something that cannot be put back?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.network.forward_view import name_of
from lightning_saliency.network.isolation.reachable import Reached
from lightning_saliency.network.isolation.undisturbed import undisturbed, without_outer_contexts

# Accelerators add up in whatever order is quickest; relative to the largest number.
_TOLERANCE = 1e-3
_MOST_NAMES = 5


def warn_if_unrepeatable(model: nn.Module, run: Callable[[], object]) -> None:
    """Warn if an explanation would leave something behind in a model; see :func:`unrepeatable`.

    Args:
        model: that would be explained.
        run: makes one forward pass through it.
    """
    problem = unrepeatable(model, run)
    if problem:
        warnings.warn(problem, SaliencyWarning, stacklevel=2)


def unrepeatable(model: nn.Module, run: Callable[[], object]) -> str:
    """Return what is wrong if two passes from the same state give different answers, else ``""``.

    Each pass runs in an :func:`~lightning_saliency.network.isolation.undisturbed.undisturbed`
    context of its own, also where this is called inside of one. State that only code reads that
    runs in training goes unnoticed.

    Args:
        model: is not changed, as far as it can be put back.
        run: makes one forward pass through it, always on the same images, and returns the output.

    Returns:
        A sentence that names what the model reaches and cannot be put back.
    """
    answers: list[object] = []
    with without_outer_contexts():
        for _ in range(2):
            with undisturbed(model), torch.no_grad():
                answers.append(run())
    difference = _difference(*(list(_tensors(answer)) for answer in answers))
    if difference is None:
        return ""
    found = Reached([model], named=True)
    names = [f"'{found.path(each)}' ({type(each).__name__})" for each in found.opaque]
    if len(names) > _MOST_NAMES:
        names[_MOST_NAMES:] = [f"{len(names) - _MOST_NAMES} more"]
    where = (
        f"It reaches {', '.join(names)}, of which the state cannot be put back."
        if names
        else "Look for files, iterators, and globals of other packages that its forward changes."
    )
    return (
        f"Expected two passes of {name_of(model)} over the same images, from the same state, to "
        f"give the same, but they differ ({difference}): the model's answer depends on something "
        f"that cannot be put back, so training will not be exactly as it is without explanations. "
        f"{where} Keep such state in attributes, buffers, or a torch.Generator."
    )


def _difference(one: list[Tensor], other: list[Tensor]) -> str | None:
    if [t.shape for t in one] != [t.shape for t in other]:
        return "in shape"
    for first, second in zip(one, other, strict=True):
        same = torch.equal(torch.nan_to_num(first), torch.nan_to_num(second))
        if same and torch.equal(first.isnan(), second.isnan()):
            continue
        largest = (first.double() - second.double()).abs().max()
        allowed = 0 if first.is_cpu else _TOLERANCE * float(second.double().abs().max())
        if not float(largest) <= allowed:
            return f"by up to {float(largest):.2g}"
    return None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value.detach()
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _tensors(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _tensors(entry)
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value))
