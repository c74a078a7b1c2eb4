"""What all stages have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from lightning_saliency.callbacks.explanation import ExplanationRound
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.samples.sample_set import SampleSet

__all__ = ["Stage"]


class Stage(ABC):
    """One thing that is done with an explanation; owns the state that it needs for it.

    :class:`~lightning_saliency.callbacks.stage_runner.StageRunner` runs it: it need not catch
    anything, look at the clock or count. What it does on one process alone it does in
    :meth:`RunContext.require`, so that all processes learn whether it failed.

    Attributes:
        name: in reports of failures.
        needs_room: whether it takes about as long as an explanation, and so is only tried if the
            budget has room for another one.
    """

    name: ClassVar[str]
    needs_room: ClassVar[bool] = False

    def prepare(self, context: RunContext, probe: SampleSet) -> None:  # noqa: B027 (most need none)
        """Check before the first training step that the settings fit the samples and the module.

        Args:
            context: of the run.
            probe: some of the samples, as they come from the batch.

        Raises:
            SaliencyError: they do not.
        """

    def is_due(self, context: RunContext, round: ExplanationRound) -> bool:
        """Return whether there is something to do, the same on all processes."""
        return True

    @abstractmethod
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        """Do it; called on all processes.

        Args:
            context: of the run.
            round: what was just explained.

        Raises:
            StageError: it failed on one of the processes.
        """
