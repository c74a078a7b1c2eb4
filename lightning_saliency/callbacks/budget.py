"""Keep the time spent on explanations under a share of the run's time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_saliency.errors import InputError

__all__ = ["Budget"]


class Budget:
    """An account of seconds: what the run took so far, and what explanations took of it.

    Args:
        share: the largest share, in (0, 1]; None for no limit.

    Attributes:
        skipped: how many explanations were left out to keep within the share.

    Raises:
        InputError: ``share`` is out of its range.
    """

    def __init__(self, share: float | None) -> None:
        if share is not None and not 0 < share <= 1:
            raise InputError(
                "Expected max_overhead to be a share of the run's time in (0, 1], for instance "
                f"0.05, or None for no limit, got {share}."
            )
        self.share = share
        self.skipped = 0
        self._spent = 0.0
        self._last = 0.0
        self._elapsed_before = 0.0
        self._started: float | None = None

    def start(self) -> None:
        """The run begins or goes on."""
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of the run so far, those before a resume included."""
        now = 0.0 if self._started is None else time.monotonic() - self._started
        return self._elapsed_before + now

    @property
    def overhead(self) -> float:
        """The share of the run's time that explanations took, in [0, 1]."""
        return self._spent / self.elapsed if self.elapsed > 0 else 0.0

    def allows_next(self) -> bool:
        """Whether another explanation, as long as the last, stays within the share.

        The first is always allowed: until then nothing is known of its cost.
        """
        if self.share is None or self._spent == 0:
            return True
        return self._spent + self._last <= self.share * (self.elapsed + self._last)

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Book the time inside as spent on one explanation."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._last = time.monotonic() - start
            self._spent += self._last

    def state_dict(self) -> dict[str, Any]:
        """Return the account for a checkpoint; seconds."""
        return {
            "spent": self._spent,
            "last": self._last,
            "elapsed": self.elapsed,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the account of a checkpoint.

        Args:
            state: from :meth:`state_dict`.
        """
        self._spent = state["spent"]
        self._last = state["last"]
        self._elapsed_before = state["elapsed"]
        self.skipped = state["skipped"]
