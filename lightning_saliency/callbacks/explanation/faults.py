"""What happens when an explanation fails: training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_saliency.errors import InputError, SaliencyWarning

__all__ = ["AbandonedError", "Fault", "Faults", "OnError", "describe", "is_out_of_memory"]

OnError = Literal["warn", "raise"]
"""Report a failure and go on, or let it end the run."""

# After this many failures in a row there is no more trying.
_MOST_FAILURES = 3


class AbandonedError(Exception):
    """An explanation was given up because the run is about to end; that is no fault."""


@dataclass(frozen=True)
class Fault:
    """Something went wrong, here or on another process.

    Attributes:
        text: what, in the same words on all processes; empty if there is nothing to report.
        error: what to raise here, if it is to be raised.
    """

    text: str
    error: Exception


def describe(error: Exception) -> str:
    """Return the kind and the words of an exception; "" for :class:`AbandonedError`.

    Args:
        error: anything.
    """
    return "" if isinstance(error, AbandonedError) else f"{type(error).__name__}: {error}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether there was not enough memory, on the device or on the host.

    Args:
        error: anything.
    """
    # torch has an exception for the device, and a mere RuntimeError for the host.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "not enough memory" in str(error)
    )


class Faults:
    """Says what goes wrong in explanations, and counts.

    Each part of an explanation has a count of its own: a method, or what they all need. A part
    that has failed three times in a row is not tried any more.

    Args:
        on_error: "warn" or "raise".

    Raises:
        InputError: it is neither.
    """

    def __init__(self, on_error: OnError) -> None:
        if on_error not in ("warn", "raise"):
            raise InputError(f"Expected on_error to be 'warn' or 'raise', got {on_error!r}.")
        self._on_error = on_error
        self._in_a_row: dict[str, int] = {}

    def gave_up(self, part: str) -> bool:
        """Whether a part has failed so often in a row that it is not tried any more.

        Args:
            part: what is tried.
        """
        return self._in_a_row.get(part, 0) >= _MOST_FAILURES

    def settle(self, tried: Mapping[str, Fault | None], epoch: int) -> None:
        """Report what has failed, once for each cause, and count.

        Args:
            tried: for each part that was tried what went wrong, if anything; the same parts and
                words on all processes.
            epoch: named in the report.

        Raises:
            Exception: the first of the faults, if they are to be raised.
        """
        failed: dict[str, list[str]] = {}
        for part, fault in tried.items():
            if fault is None:
                self._in_a_row[part] = 0
            elif fault.text:
                if self._on_error == "raise":
                    raise fault.error
                self._in_a_row[part] = self._in_a_row.get(part, 0) + 1
                failed.setdefault(fault.text, []).append(part)
        for text, parts in failed.items():
            off = [part for part in parts if self.gave_up(part)]
            rank_zero_warn(
                f"The explanation of epoch {epoch} failed ({', '.join(parts)}) and is skipped; "
                f"training goes on{_consequence(off)}. {text}",
                category=SaliencyWarning,
            )
        for fault in tried.values():
            if fault is not None:
                _let_go(fault.error)


def _let_go(error: BaseException | None) -> None:
    """Free what an exception holds: the local variables, tensors too, of all it went through."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _consequence(off: list[str]) -> str:
    if not off:
        return ""
    return f", and after three failures in a row nothing more is explained ({', '.join(off)})"
