"""Measure each explanation: how far the maps have moved, what they lie on, what else was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_saliency.callbacks.explanation import DriftResult, ExplanationRound, Series
from lightning_saliency.callbacks.run_context import RunContext, best_score
from lightning_saliency.callbacks.samples.regions import Regions
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.settings import Pinned
from lightning_saliency.callbacks.stage_runner import Stage
from lightning_saliency.callbacks.stages.drift_tracker import DriftTracker, References
from lightning_saliency.callbacks.stages.locate import locate, location_names
from lightning_saliency.metrics.localization import region_area

__all__ = ["DriftStage"]


class DriftStage(Stage):
    """Compares the maps with their references, measures them on the regions, logs the numbers.

    Args:
        series: their names.
        regions: that the maps are measured on, besides those that come with the samples.
        pinned: which explanation is the pinned reference.
        warmup_epochs: before it is pinned.

    Attributes:
        trackers: by series, with the references.
    """

    name: ClassVar[str] = "numbers"

    def __init__(
        self, series: Iterable[str], regions: Regions, pinned: Pinned, warmup_epochs: int
    ) -> None:
        self._regions = regions
        self._pinned, self._warmup_epochs = pinned, warmup_epochs
        self.trackers = {name: self._new_tracker() for name in series}

    def number_tags(self, series: Iterable[Series]) -> list[str]:
        """Return the tags of the numbers that are known before the samples are."""
        names = [*DriftTracker.names(), *location_names(self._regions.names)]
        return [each.tag(what) for each in series for what in [*names, *each.method.extra_names()]]

    def _new_tracker(self) -> DriftTracker:
        return DriftTracker(References(self._pinned, self._warmup_epochs))

    @override
    def prepare(self, context: RunContext, probe: SampleSet) -> None:
        self._regions.check((probe.images.shape[2], probe.images.shape[3]))

    @override
    def is_due(self, context: RunContext, round: ExplanationRound) -> bool:
        return bool(round.explanations)

    @override
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        values, drift, located = context.require(lambda: self._measure(context, round))
        # What is monitored must be the same everywhere, on unlike machines too.
        round.values = context.broadcast(values)
        round.drift, round.located = drift, located
        context.log_numbers(round.values, len(round.samples))

    def state_dict(self) -> dict[str, Any]:
        """Return the references for a checkpoint."""
        return {name: tracker.state_dict() for name, tracker in self.trackers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the references of a checkpoint, by series; those without start over.

        Raises:
            Exception: there is something else in it. Nothing has changed then.
        """
        loaded = {name: self._new_tracker() for name in self.trackers}
        for name, tracker in loaded.items():
            if name in state:
                tracker.load_state_dict(state[name])
        # In place: the noise stage has these trackers too.
        self.trackers.update(loaded)

    def _measure(
        self, context: RunContext, round: ExplanationRound
    ) -> tuple[dict[str, float], dict[str, DriftResult], dict[str, dict[str, Tensor]]]:
        values: dict[str, float] = {}
        drift: dict[str, DriftResult] = {}
        all_located: dict[str, dict[str, Tensor]] = {}
        regions = self._regions_of(round.samples)
        prefix = next(iter(round.series.values())).prefix
        for name, region in regions.items():
            area = region_area(region)[region.flatten(1).any(1)].mean()
            values[f"{prefix}saliency_region_area/{name}"] = float(area)
        for name, explanation in round.explanations.items():
            series = round.series[name]
            located = locate(explanation.saliency, regions, series.method) if regions else {}
            moved = self.trackers[name].measure(
                explanation, context.epoch, best_score(context.trainer)
            )
            found = moved.numbers | {what: float(v.nanmean()) for what, v in located.items()}
            if explanation.extras is not None:
                found |= explanation.extras.numbers()
            values |= {series.tag(what): value for what, value in found.items()}
            drift[name], all_located[name] = moved, located
        return values, drift, all_located

    def _regions_of(self, samples: SampleSet) -> dict[str, Tensor]:
        size = samples.images.shape[2], samples.images.shape[3]
        of_batch = {name: mask.cpu() for name, mask in samples.regions.items()}
        return of_batch | self._regions.masks(size, len(samples))
