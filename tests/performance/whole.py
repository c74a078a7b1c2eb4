"""A whole explanation, as a callback makes it; the drawing and the logging are not in it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from torch import nn

from lightning_saliency.callbacks.explanation import Explanation, NamedMethod
from lightning_saliency.callbacks.method_call import MethodCall, shared_forward
from lightning_saliency.callbacks.samples.sample_set import SampleSet

__all__ = ["explain_all"]


def explain_all(
    model: nn.Module, methods: Sequence[NamedMethod], samples: SampleSet
) -> list[Explanation]:
    """Return what each method says of the samples' labels: maps, classes and probabilities."""
    whole = [(model, slice(len(samples)))]
    shared = shared_forward(whole, [entry.method for entry in methods], samples, ["label"])
    calls = (
        MethodCall(shared, entry.method, (row, 0), nullcontext) for row, entry in enumerate(methods)
    )
    return [call() for call in calls]
