"""Keep the time spent on explanations under a share of the run's time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_saliency.errors import InputError


class Budget:
    """An account of seconds: what the run took so far, and what explanations took of it.

    An explanation is made when the share of the time so far leaves room for it. So explanations
    are spread over the run, and the share is kept at every time after the first one.

    The first one may be made on credit, because the first epochs are worth seeing: at once, if it
    fits into the share of the whole run, as far as the run's length can be foreseen.

    Args:
        share: the largest share, in (0, 1]; None for no limit.

    Attributes:
        skipped: how many explanations were left out to keep within the share.
        made: how many were made.
        cost: seconds that an explanation takes, by the last one or by an estimate; 0 if unknown.

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
        self.made = 0
        self.cost = 0.0
        self._spent = 0.0
        self._elapsed_before = 0.0
        self._started: float | None = None
        self._depth = 0

    @property
    def needs_estimate(self) -> bool:
        """Whether there is a limit, and nothing is known of what an explanation costs."""
        return self.share is not None and self.cost == 0

    def start(self) -> None:
        """The run begins or goes on."""
        self._started = time.monotonic()

    def stop(self) -> None:
        """The run ends or pauses: the time until it goes on is not the run's."""
        self._elapsed_before = self.elapsed
        self._started = None

    @property
    def elapsed(self) -> float:
        """Seconds of the run so far, those before a resume included."""
        now = 0.0 if self._started is None else time.monotonic() - self._started
        return self._elapsed_before + now

    @property
    def overhead(self) -> float:
        """The share of the run's time that explanations took, in [0, 1]."""
        return min(self._spent / self.elapsed, 1.0) if self.elapsed > 0 else 0.0

    def allows_next(self, progress: float) -> bool:
        """Whether another explanation, as long as the last, stays within the share.

        Args:
            progress: the part of the run that is done, in [0, 1]; 0 if nobody knows.
        """
        if self.share is None:
            return True
        after = self._spent + self.cost
        if after <= self.share * (self.elapsed + self.cost):
            return True
        return self.made == 0 and after * progress <= self.share * self.elapsed

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Book the time inside as spent; once, where one stands inside another."""
        start = time.monotonic()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._spent += time.monotonic() - start

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Book the time inside as spent on one explanation; the next is expected to take as long.

        One that fails is booked, too; it says nothing of what a whole one takes.
        """
        start = time.monotonic()
        with self.spending():
            yield
        self.made += 1
        self.cost = time.monotonic() - start

    @contextmanager
    def estimating(self, parts: float) -> Iterator[None]:
        """Book the time inside as spent, and expect an explanation to take ``parts`` times that.

        Args:
            parts: how many times the time inside an explanation takes, as far as can be foreseen.
        """
        start = time.monotonic()
        with self.spending():
            yield
        self.cost = parts * (time.monotonic() - start)

    def state_dict(self) -> dict[str, Any]:
        """Return the account for a checkpoint; seconds."""
        return {
            "spent": self._spent,
            "cost": self.cost,
            "elapsed": self.elapsed,
            "skipped": self.skipped,
            "made": self.made,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the account of a checkpoint.

        Args:
            state: from :meth:`state_dict`.

        Raises:
            Exception: there is something else in it. Nothing has changed then.
        """
        seconds = [float(state[key]) for key in ("spent", "cost", "elapsed")]
        skipped, made = int(state["skipped"]), int(state["made"])
        self._spent, self.cost, self._elapsed_before = seconds
        self.skipped, self.made = skipped, made
