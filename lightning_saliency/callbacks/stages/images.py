"""The pictures of an explanation: panels, all methods side by side, and filmstrips."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_saliency.callbacks.explanation import (
    DriftResult,
    Explanation,
    ExplanationRound,
)
from lightning_saliency.callbacks.pictures import Pictures
from lightning_saliency.callbacks.run_context import RunContext, followed_checkpoint
from lightning_saliency.callbacks.samples.batch import known_labels
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.stage_runner import Stage
from lightning_saliency.loggers import LogAdapter
from lightning_saliency.metrics.map_similarity import RANKING
from lightning_saliency.metrics.movement import with_emptied

_LOSSES = ("val_loss", "val/loss")


class ImagesStage(Stage):
    """Draws panels, side-by-side panels and filmstrips, on rank zero alone.

    Args:
        pictures: draws in the colors of the run.
        prefix: stands before all tags.
    """

    name: ClassVar[str] = "pictures"

    def __init__(self, pictures: Pictures, prefix: str) -> None:
        self._pictures = pictures
        self._prefix = prefix

    @override
    def prepare(self, context: RunContext, probe: SampleSet) -> None:
        self._pictures.show(probe.images)
        self._pictures.check_colors(probe.images)

    @override
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        context.require(lambda: self._log(context, round))

    def _log(self, context: RunContext, round: ExplanationRound) -> None:
        # On all processes, so that all know the same of the filmstrips.
        shown = {name: evident(round, name) for name in round.explanations}
        self._pictures.when_zero = {
            name: each.method.when_zero for name, each in round.series.items()
        }
        labels = known_labels(round.samples.labels)
        for name, drift in round.drift.items():
            moved = moved_since_previous(drift)
            images = round.samples.images
            self._pictures.record(name, images, shown[name], round.epoch, moved, labels)
        adapters = [each for each in context.adapters() if each.takes_images]
        if context.is_rank_zero and adapters:
            drawn = self._pictures.draw(round.samples.images, shown, round.epoch)
            write_pictures(adapters, ((self._prefix + tag, one) for tag, one in drawn), round.step)


def moved_since_previous(drift: DriftResult) -> Tensor | None:
    """Return how far each map has moved since the explanation before, (N,), in [0, 1].

    From or to a map that shows nothing counts as 1; NaN where both show nothing.

    Args:
        drift: of one series.

    Returns:
        None for the first explanation.
    """
    moved = drift.samples.get(f"previous/{RANKING.name}")
    if moved is None:
        return None
    before = drift.references.previous.described.is_degenerate
    now = drift.references.current.described.is_degenerate
    return with_emptied(RANKING.amount(moved), before, now)


def write_pictures(
    adapters: Sequence[LogAdapter], drawn: Iterable[tuple[str, Tensor]], step: int
) -> None:
    """Write pictures to every logger; one that fails does not keep the others from theirs.

    Args:
        adapters: of loggers that take images.
        drawn: tags and pictures.
        step: at which they stand.

    Raises:
        Exception: the first that a logger raised.
    """
    working, failures = list(adapters), list[Exception]()
    # What waits to be written may be the run's own, and must not be lost with ours.
    for adapter in working:
        adapter.flush()
    for tag, picture in drawn:
        for adapter in list(working):
            try:
                adapter.image(tag, picture, step)
            except Exception as error:
                failures.append(error)
                working.remove(adapter)
    for adapter in working:
        adapter.flush()
    if failures:
        raise failures[0]


class FilmstripStage(Stage):
    """Draws the filmstrips, when the alarms and the loss of a validation run are known.

    Args:
        pictures: draws in the colors of the run.
        prefix: stands before all tags.
    """

    name: ClassVar[str] = "filmstrips"

    def __init__(self, pictures: Pictures, prefix: str) -> None:
        self._pictures = pictures
        self._prefix = prefix

    @override
    def is_due(self, context: RunContext, round: ExplanationRound) -> bool:
        return bool(self._series(round))

    @override
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        # Metrics may be gathered from all processes when they are read.
        found = _loss_of(context)
        if found is not None:
            self._pictures.set_loss(*found)
        context.require(lambda: self._log(context, round))

    def _series(self, round: ExplanationRound) -> list[str]:
        return [name for name in round.drift if self._pictures.newest(name) == round.epoch]

    def _log(self, context: RunContext, round: ExplanationRound) -> None:
        adapters = [each for each in context.adapters() if each.takes_images]
        if not context.is_rank_zero or not adapters:
            return
        drawn = (
            (f"{self._prefix}saliency/filmstrip/{name}", self._pictures.filmstrip(name))
            for name in self._series(round)
        )
        write_pictures(adapters, drawn, round.step)


def evident(round: ExplanationRound, series: str) -> Explanation:
    """Return an explanation whose maps hold evidence alone: without what all pixels have."""
    explanation = round.explanations[series]
    if not round.series[series].method.has_offset:
        return explanation
    maps = explanation.saliency
    return replace(explanation, saliency=maps - maps.amin((2, 3), keepdim=True))


def _loss_of(context: RunContext) -> tuple[float, str] | None:
    """Return the validation loss and its name, if there is one that is known by its name."""
    metrics = context.trainer.callback_metrics
    monitor = getattr(followed_checkpoint(context.trainer), "monitor", None)
    for name in (*_LOSSES, monitor):
        if name in metrics and "saliency_" not in name:
            value = float(metrics[name])
            return value, "val loss" if name in _LOSSES else str(name)
    return None
