"""Draw an explanation, and log the pictures."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from lightning_saliency.callbacks.explanation_round import ExplanationRound
from lightning_saliency.callbacks.pictures import Pictures
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.stages.stage import Stage

__all__ = ["ImagesStage"]


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

    @override
    def is_due(self, context: RunContext, round: ExplanationRound) -> bool:
        return bool(round.explanations)

    @override
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        context.require(lambda: self._log(context, round))

    def _log(self, context: RunContext, round: ExplanationRound) -> None:
        working = [adapter for adapter in context.adapters() if adapter.takes_images]
        if not working or not context.is_rank_zero:
            return
        drawn = self._pictures.draw(round.samples.images, round.explanations, round.epoch)
        failures: list[Exception] = []
        # All are drawn, also when every logger has failed: the filmstrips remember them.
        for tag, picture in drawn:
            # Filmstrips are large, and written again each time.
            palette = "saliency_filmstrip/" in tag
            for adapter in list(working):
                try:
                    adapter.image(self._prefix + tag, picture, round.step, palette=palette)
                except Exception as error:
                    failures.append(error)
                    working.remove(adapter)
        if failures:
            raise failures[0]
