"""One explanation of all samples by all methods, handed from stage to stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lightning_saliency.callbacks.explanation import Explanation, Series
from lightning_saliency.callbacks.failures import Failure
from lightning_saliency.callbacks.pictures import Pictures
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.stages.drift_tracker import DriftResult
from lightning_saliency.callbacks.stages.references import References

__all__ = ["ExplanationRound"]


@dataclass
class ExplanationRound:
    """One explanation of all samples by all methods, the same on all processes.

    The explainer makes it, the drift stage fills in what was measured, the stages after it and
    callbacks with a method ``on_explained`` read it.

    Attributes:
        epoch: of the run.
        step: at which the numbers and pictures of this explanation stand.
        samples: (N samples) as the model takes them.
        sample_ids: N indices into the validation dataset, or places among its first samples.
        series: what was to be explained, by name.
        explanations: what was, by series.
        failures: for each series that was tried, what went wrong, None if nothing did.
        pictures: draws in the colors of the run.
        count: explanations without failure so far, this one included.
        references: by series, what the maps were compared with.
        values: the numbers, by the tags under which they are logged.
        drift: by series, how far each sample has moved.
        located: by series, what each map lies on: values (N,) by the name of the number.
    """

    epoch: int
    step: int
    samples: SampleSet
    sample_ids: list[int]
    series: dict[str, Series]
    explanations: dict[str, Explanation]
    failures: dict[str, Failure | None]
    pictures: Pictures
    count: int = 0
    references: dict[str, References] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    drift: dict[str, DriftResult] = field(default_factory=dict)
    located: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def is_measured(self) -> bool:
        """Whether the drift stage has filled in its part."""
        return bool(self.references)
