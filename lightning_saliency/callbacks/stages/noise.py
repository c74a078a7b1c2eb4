"""How far the maps of a stochastic method move on unchanged weights."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from typing_extensions import override

from lightning_saliency.callbacks.explainer import Explainer
from lightning_saliency.callbacks.explanation import ExplanationRound, NamedMethod
from lightning_saliency.callbacks.failures import StageError
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.stage_runner import Stage
from lightning_saliency.callbacks.stages.drift import DriftTracker


class NoiseStage(Stage):
    """Explains once more with another seed, and logs how far the maps are from the newest ones.

    Args:
        explainer: of the callback.
        trackers: by series; they are told the noise, to set drift in relation to it.
        every: at the first and every so many explanations.
    """

    name: ClassVar[str] = "noise"
    needs_room: ClassVar[bool] = True

    def __init__(
        self, explainer: Explainer, trackers: Mapping[str, DriftTracker], every: int
    ) -> None:
        self._explainer = explainer
        self._trackers = trackers
        self.every = every

    @override
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        """Explain again, and log the noise; a method that fails raises a StageError at the end."""
        again, failures = self._explainer.explain(context, round.samples, methods=self._reseeded())
        for name, explanation in again.items():
            measure = partial(self._trackers[name].measure_noise, explanation)
            noise = context.broadcast(context.require(measure))
            tags = {round.series[name].tag(what): value for what, value in noise.items()}
            context.log_numbers(tags, len(round.samples), level=round.log)
        for failure in failures.values():
            if failure is not None:
                raise StageError(failure)

    def _reseeded(self) -> list[NamedMethod]:
        """Return the methods with chance in them, each with another seed."""
        return [
            NamedMethod(entry.name, entry.method.reseeded())
            for entry in self._explainer.methods
            if entry.method.stochastic
        ]
