"""Measure each explanation: how far the maps have moved, what they lie on, what else was found."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.callbacks.explanation import (
    DriftResult,
    Explanation,
    ExplanationRound,
    Reference,
    ReferencePair,
    Series,
)
from lightning_saliency.callbacks.run_context import RunContext, best_score
from lightning_saliency.callbacks.samples.regions import OBJECT, Regions
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.settings import Pinned
from lightning_saliency.callbacks.stage_runner import Stage
from lightning_saliency.image.saliency_map import resize
from lightning_saliency.metrics.coarse import coarse
from lightning_saliency.metrics.drift import calibrated_drift, chance_of, mean_drift
from lightning_saliency.metrics.localization import region_area
from lightning_saliency.metrics.map_similarity import MEASURES, RANKING, SIMILARITIES, similarity
from lightning_saliency.metrics.map_statistics import MapStatistics, canonical
from lightning_saliency.metrics.object_measures import OBJECT_MEASURES, region_share

STABLE = 0.1
"""A sample is stable if its predicted class is the same as at the reference, and the probability of
its explained class has changed by less than this; a score, by less than this share of itself."""


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

    def number_tags(self, series: Collection[Series]) -> list[str]:
        """Return the tags of the numbers that are known before the samples are."""
        located = location_names(self._regions.names)
        tags = [
            each.tag(what)
            for each in series
            for what in [
                *DriftTracker.names(has_score=each.score is not None),
                *located,
                *each.method.extra_names(),
            ]
        ]
        return [*tags, *dict.fromkeys(flips_tag(each) for each in series)]

    def _new_tracker(self) -> "DriftTracker":
        return DriftTracker(References(self._pinned, self._warmup_epochs))

    @override
    def prepare(self, context: RunContext, probe: SampleSet) -> None:
        self._regions.check((probe.images.shape[2], probe.images.shape[3]))

    @override
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        values, drift, located = context.require(lambda: self._measure(context, round))
        # What is monitored must be the same everywhere, on unlike machines too.
        round.values = context.broadcast(values)
        round.drift, round.located = drift, located
        context.log_numbers(round.values, len(round.samples), level=round.log)

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
            if "target/flips" in found:
                values.setdefault(flips_tag(series), found["target/flips"])
            drift[name], all_located[name] = moved, located
        return values, drift, all_located

    def _regions_of(self, samples: SampleSet) -> dict[str, Tensor]:
        size = samples.images.shape[2], samples.images.shape[3]
        of_batch = {name: mask.cpu() for name, mask in samples.regions.items()}
        return of_batch | self._regions.masks(size, len(samples))


class References:
    """The references of one series of explanations.

    The first explanation is its own reference, and so is each one as long as the pinned one is not
    settled: then there is nothing to compare with.

    Args:
        pinned: see :data:`~.settings.Pinned`. ``"first"`` and ``"best"`` settle after the
            warm-up, an epoch in that epoch, or at the first explanation after it. ``"best"`` is
            then exchanged whenever a better checkpoint has been saved, for the last explanation
            before that.
        warmup_epochs: of the warm-up.

    Attributes:
        last: the newest explanation.
        previous: the one before it; itself for the first; None before it.
        pinned: the pinned one; None before the first.
    """

    def __init__(self, pinned: Pinned = "first", warmup_epochs: int = 0) -> None:
        self._follows_best = pinned == "best"
        self._start = pinned if isinstance(pinned, int) else warmup_epochs
        self._best: float | None = None
        self._settled = False
        self.last: Reference | None = None
        self.previous: Reference | None = None
        self.pinned: Reference | None = None

    def advance(self, current: Reference, best: float | None = None) -> ReferencePair:
        """Settle and return what an explanation is compared with.

        Args:
            current: the new explanation.
            best: the score of the best checkpoint so far, None if there is none.
        """
        self.previous = self.last or current
        if self._follows_best and best is not None and best != self._best:
            self._best = best
            if self.last is not None and self.last.epoch >= self._start:
                self.pinned, self._settled = self.last, True
        if not self._settled:
            self.pinned, self._settled = current, current.epoch >= self._start
        self.last = current
        return ReferencePair(current, self.previous, self.pinned or current, self._settled)

    def state_dict(self) -> dict[str, Any]:
        """Return the references for a checkpoint; empty before the first explanation."""
        if self.last is None or self.pinned is None:
            return {}
        return {
            "last": asdict(self.last),
            "pinned": asdict(self.pinned),
            "settled": self._settled,
            "best": self._best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the references of a checkpoint.

        Args:
            state: from :meth:`state_dict`.
        """
        if state:
            last, pinned = (Reference.of_state(state[key]) for key in ("last", "pinned"))
            settled, best = bool(state["settled"]), state["best"]
            self._best = None if best is None else float(best)
            self.last, self.pinned, self._settled = last, pinned, settled


class DriftTracker:
    """Compares each explanation of one series with its references.

    Args:
        references: what it is compared with.

    Attributes:
        references: as given.
        noise: the mean similarity of two explanations of the same weights with different seeds,
            by measure; empty as long as it has not been measured.
        measured: the names of the numbers that were finite at least once.
    """

    def __init__(self, references: References | None = None) -> None:
        self.references = references or References()
        self.noise: dict[str, float] = {}
        self.measured: set[str] = set()

    def measure(
        self, explanation: Explanation, epoch: int = 0, best: float | None = None
    ) -> DriftResult:
        """Compare with the references, and take the explanation as the next previous one.

        Args:
            explanation: of the same samples as before.
            epoch: of the explanation.
            best: the score of the best checkpoint so far, None if there is none.

        Returns:
            What could be compared, and nothing under the names of what could not; NaN where this
            was possible before, and every map is degenerate now. For the references ``previous``
            and ``pinned``: ``drift/<reference>``, 0 for maps that have not moved and 1 for maps
            that have altogether; means over the samples ``drift/<reference>/<measure>``, and
            ``.../coarse``, over those of which it says anything;
            ``drift_stable/...``, over the stable
            samples alone; ``drift_flipped/...``, over those with another predicted class, if there
            are any; ``drift_relative/...``, 0 where the method's noise is and 1 where chance is.
            ``drift_worst/<reference>/top10_iou`` and ``.../sample``: that of the sample that has
            moved most, and its number, -1 if none has moved. ``drift/pinned/epoch``: of the pinned
            explanation. ``drift_level/chance/<measure>``: similarity of maps of different samples.
            ``target/<what>``: ``probability`` and ``log_probability`` of the explained classes
            (or ``score``, the mean value, where that is explained),
            ``flips``, the share of samples with another predicted class than at the previous
            explanation, and ``degenerate_frac``, the share of maps that are constant or not finite.
        """
        current = Reference.of(explanation, epoch)
        references = self.references.advance(current, best)
        chance = mean_drift(chance_of(current.described))
        numbers: dict[str, float] = {}
        samples: dict[str, Tensor] = {}
        flipped: dict[str, Tensor] = {}
        for name, reference in references.others().items():
            values = similarity(current.described, reference.described)
            means = mean_drift(values)
            numbers[f"drift/{name}"] = float(RANKING.amount(means[RANKING.name]))
            numbers |= _named(f"drift/{name}", means, MEASURES)
            alike = similarity(current.described, reference.described, [coarse])[coarse.name]
            numbers[f"drift/{name}/{coarse.name}"] = float(alike.nanmean())
            flipped[name] = current.predicted != reference.predicted
            numbers |= _of_some(name, values, current, reference, explanation.score is not None)
            relative = calibrated_drift(means, chance, self._noise())
            numbers |= _named(f"drift_relative/{name}", relative)
            samples |= {f"{name}/{measure}": value for measure, value in values.items()}
        if references.is_settled:
            numbers["drift/pinned/epoch"] = float(references.pinned.epoch)
        numbers |= _named("drift_level/chance", chance)
        if explanation.score is not None:
            numbers["target/score"] = float(explanation.score.mean())
        else:
            numbers["target/probability"] = float(explanation.probability.mean())
            numbers["target/log_probability"] = float(explanation.log_probability.mean())
        has_classes = explanation.score is None or bool((current.predicted >= 0).any())
        if "previous" in flipped and has_classes:
            numbers["target/flips"] = float(flipped["previous"].float().mean())
        numbers["target/degenerate_frac"] = float(current.described.is_degenerate.float().mean())
        self.measured.update(name for name, value in numbers.items() if value == value)
        # A number that has never been one would end the runs of those who monitor it.
        numbers = {name: value for name, value in numbers.items() if name in self.measured}
        return DriftResult(numbers, samples, flipped, references)

    def measure_noise(self, again: Explanation) -> dict[str, float]:
        """Compare the newest explanation with one of the same weights and another seed.

        Args:
            again: of the same samples.

        Returns:
            ``drift_level/noise/<measure>``, means over the samples; empty if there is nothing to
            compare with.
        """
        if self.references.last is None:
            return {}
        maps = MapStatistics(canonical(again.saliency))
        means = mean_drift(similarity(maps, self.references.last.described))
        self.noise = {measure: float(means[measure]) for measure in MEASURES}
        return {f"drift_level/noise/{measure}": self.noise[measure] for measure in SIMILARITIES}

    @classmethod
    @lru_cache(maxsize=2)
    def names(cls, has_score: bool = False) -> tuple[str, ...]:
        """Return the names of all numbers that :meth:`measure` can give.

        Args:
            has_score: whether a score of the user is explained, not a class.
        """
        zero, one = torch.zeros(2, dtype=torch.int64), torch.ones(2)
        first = torch.arange(16.0).view(1, 1, 4, 4)
        tracker, anything = cls(), torch.cat((first, first.flip(2)))
        score = one if has_score else None
        # Some numbers are there only if a prediction has changed, others only if none has.
        found: dict[str, float] = {}
        for change in (0, 0, 1):
            explanation = Explanation(anything, zero, zero + change, one, one, score=score)
            found |= tracker.measure(explanation).numbers
        return tuple(found)

    def state_dict(self) -> dict[str, Any]:
        """Return the references and the noise for a checkpoint."""
        return {
            "references": self.references.state_dict(),
            "noise": self.noise,
            "measured": sorted(self.measured),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the references of a checkpoint.

        Args:
            state: from :meth:`state_dict`.
        """
        noise = {str(name): float(value) for name, value in state["noise"].items()}
        # Not in checkpoints of version 0.1.0.
        measured = {str(name) for name in state.get("measured", ())}
        self.references.load_state_dict(state["references"])
        self.noise, self.measured = noise, measured

    def _noise(self) -> dict[str, Tensor] | None:
        return {name: torch.tensor(value) for name, value in self.noise.items()} or None


def _of_some(
    name: str,
    values: Mapping[str, Tensor],
    current: Reference,
    reference: Reference,
    has_score: bool,
) -> dict[str, float]:
    """Return the means over the stable and over the flipped samples, and the worst sample."""
    flipped = current.predicted != reference.predicted
    shift = (current.probability - reference.probability).abs()
    if has_score:
        # Of no known scale: as a share of what it was.
        shift = shift / reference.probability.abs().clamp(min=torch.finfo(shift.dtype).tiny)
    stable = ~flipped & (current.target == reference.target) & (shift < STABLE)
    similarities = {measure: values[measure] for measure in SIMILARITIES}
    found = _named(f"drift_stable/{name}", _mean_over(similarities, stable))
    if bool(flipped.any()):
        found |= _named(f"drift_flipped/{name}", _mean_over(similarities, flipped))
    ranking = values[RANKING.name]
    # Maps that could not be compared come last.
    amounts = RANKING.amount(ranking).nan_to_num(-1.0)
    worst = int(amounts.argmax())
    has_moved = float(amounts[worst]) > 0
    found[f"drift_worst/{name}/{RANKING.name}"] = float(ranking[worst])
    found[f"drift_worst/{name}/sample"] = float(worst if has_moved else -1)
    return found


def flips_tag(series: Series) -> str:
    """Return the tag of the flips of a class choice: those of its methods are the same."""
    choice = series.name.partition("/")[2]
    return f"{series.prefix}saliency_target/flips{'/' if choice else ''}{choice}"


def _mean_over(values: Mapping[str, Tensor], some: Tensor) -> dict[str, Tensor]:
    return mean_drift({measure: value[some] for measure, value in values.items()})


def _named(
    name: str, means: Mapping[str, Tensor], measures: Iterable[str] = SIMILARITIES
) -> dict[str, float]:
    return {f"{name}/{measure}": float(means[measure]) for measure in measures}


def location_names(regions: Iterable[str]) -> list[str]:
    """Return the names of the numbers that :func:`locate` gives for regions of these names."""
    of_object = [f"object/{measure}" for measure in OBJECT_MEASURES]
    return [
        name for each in regions for name in (of_object if each == OBJECT else [f"region/{each}"])
    ]


def locate(
    saliency: Tensor, regions: Mapping[str, Tensor], method: AttributionMethod
) -> dict[str, Tensor]:
    """Measure each map on the regions.

    Maps of another size than the images are resized to it. What a method's maps need before they
    are measured, the method says: RISE's published presets are large everywhere, so that their
    minimum is subtracted; masks are flat on top, so that they are blurred before their largest
    value is looked for.

    Args:
        saliency: (N, 1, h, w).
        regions: by name, bool, (N, 1, H, W) or (1, 1, H, W); that of the name ``"object"`` is the
            ground truth.
        method: that the maps are from.

    Returns:
        Each (N,), float32: for the object the :data:`~.metrics.object_measures.OBJECT_MEASURES` as
        ``object/<measure>``; for each other region ``region/<name>``, the share of the map's
        magnitude in it. NaN for degenerate maps (but they point nowhere: 0) and where a region has
        no pixel.
    """
    values: dict[str, Tensor] = {}
    if not regions:
        return values
    size = next(iter(regions.values())).shape[2:]
    maps = resize(saliency, (size[0], size[1]))
    for name, region in regions.items():
        region = region.to(maps.device)
        if name == OBJECT:
            for measure in OBJECT_MEASURES.values():
                values[f"object/{measure.name}"] = measure(
                    maps, region, has_offset=method.has_offset, flat_top_blur=method.flat_top_blur
                )
        else:
            values[f"region/{name}"] = region_share(maps, region, method.has_offset)
    return values
