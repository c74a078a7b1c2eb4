"""A whole explanation, as a callback makes it; the drawing and the logging are not in it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lightning_saliency.callbacks.explanation import (
    Explanation,
    NamedMethod,
    begin,
    explain,
)
from lightning_saliency.callbacks.samples.sample_set import SampleSet

__all__ = ["explain_all"]


def explain_all(
    model: nn.Module, methods: Sequence[NamedMethod], samples: SampleSet
) -> list[Explanation]:
    """Return what each method says of the samples' labels: maps, classes and probabilities."""
    begun = begin(model, [entry.method for entry in methods], samples, ["label"])
    return [explain(begun, entry.method, (row, 0)) for row, entry in enumerate(methods)]
