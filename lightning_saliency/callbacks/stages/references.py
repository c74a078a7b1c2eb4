"""What explanations are compared with: the previous one, and a pinned one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lightning_saliency.callbacks.explanation import Reference, ReferencePair
from lightning_saliency.callbacks.settings import Pinned

__all__ = ["References"]


class References:
    """The references of one series of explanations.

    The first explanation is its own reference. As long as the pinned one is not settled, each
    explanation is the pinned one in its turn: it has not moved. So there are numbers to monitor
    from the first explanation on.

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
        return ReferencePair(self.previous, self.pinned or current, self._settled)

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
