"""What explanations are compared with: the previous one, and a pinned one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from lightning_saliency.callbacks.explanation import Explanation
from lightning_saliency.callbacks.settings import Pinned
from lightning_saliency.metrics.canonical import canonical
from lightning_saliency.metrics.map_statistics import MapStatistics

__all__ = ["Reference", "References"]


@dataclass(frozen=True)
class Reference:
    """An explanation, as far as it is needed to compare with it.

    Attributes:
        maps: (N, 1, h, w), float32, on the CPU, at most 64 x 64.
        target: (N,), the classes that were explained.
        predicted: (N,), the classes that the model predicted.
        probability: (N,), of the explained classes.
        epoch: when it was made.
    """

    maps: Tensor
    target: Tensor
    predicted: Tensor
    probability: Tensor
    epoch: int

    @classmethod
    def of(cls, explanation: Explanation, epoch: int) -> Reference:
        """Return what is kept of an explanation."""
        return cls(
            canonical(explanation.saliency),
            explanation.target,
            explanation.predicted,
            explanation.probability,
            epoch,
        )

    @cached_property
    def described(self) -> MapStatistics:
        """The maps with what the measures need of each: it is compared with more than once."""
        return MapStatistics(self.maps)


class References:
    """The references of one series of explanations.

    The first explanation is its own reference. As long as the pinned one is not settled, each
    explanation is the pinned one in its turn: it has not moved. So there are numbers to monitor
    from the first explanation on.

    Args:
        pinned: see :data:`~.settings.Pinned`. ``"first"`` and ``"best"`` settle after the warm-up, an
            epoch in that epoch, or at the first explanation after it. ``"best"`` is then exchanged
            whenever a better checkpoint has been saved, for the last explanation before that.
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

    @property
    def is_settled(self) -> bool:
        """Whether there is a pinned explanation, that later ones are compared with."""
        return self._settled

    def advance(self, current: Reference, best: float | None = None) -> None:
        """Settle what an explanation is compared with.

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
            self.last = Reference(**state["last"])
            self.pinned = Reference(**state["pinned"])
            self._settled, self._best = state["settled"], state["best"]
