"""What happens when an explanation fails: training goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_saliency.errors import InputError, SaliencyWarning

__all__ = ["Faults", "OnError"]

OnError = Literal["warn", "raise"]
"""Report a failure and go on, or let it end the run."""

# After this many failures in a row there is no more trying.
_MOST_FAILURES = 3


class Faults:
    """Catches what goes wrong in explanations, says it, and counts.

    Args:
        on_error: "warn" or "raise".

    Raises:
        InputError: it is neither.
    """

    def __init__(self, on_error: OnError) -> None:
        if on_error not in ("warn", "raise"):
            raise InputError(f"Expected on_error to be 'warn' or 'raise', got {on_error!r}.")
        self._on_error = on_error
        self._in_a_row = 0

    @property
    def gave_up(self) -> bool:
        """Whether so many explanations in a row have failed that no more are tried."""
        return self._in_a_row >= _MOST_FAILURES

    @contextmanager
    def reported(self, epoch: int) -> Iterator[None]:
        """Report an exception inside, instead of raising it; interrupts pass through.

        Args:
            epoch: named in the report.
        """
        try:
            yield
        except Exception as error:
            if self._on_error == "raise":
                raise
            self._in_a_row += 1
            consequence = "training goes on"
            if self.gave_up:
                consequence += ", and after three failures in a row nothing more is explained"
            rank_zero_warn(
                f"The explanation of epoch {epoch} failed and is skipped; {consequence}. "
                f"{type(error).__name__}: {error}",
                category=SaliencyWarning,
            )
        else:
            self._in_a_row = 0
