"""What happens when an explanation fails: training goes on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_saliency.errors import InputError, SaliencyWarning

OnError = Literal["warn", "raise"]
"""Report a failure and continue, or let it end the run."""

PASSED_ON = (KeyboardInterrupt, SystemExit)
"""What ends a run also when it comes out of an explanation; Lightning's SIGTERM is one of them.
Everything else that a method raises is reported, also what is no ``Exception``: extensions written
in Rust, for instance, raise their panics as a ``BaseException`` of their own."""

_MOST_FAILURES_IN_A_ROW = 3
# Letters; errors of torch that name shapes, layers and lines of C++ are shorter.
_LONGEST_MESSAGE = 4_000


class AbandonedError(Exception):
    """An explanation was given up because the run is about to end; nothing has failed."""


@dataclass(frozen=True)
class Failure:
    """Something went wrong, here or on another process.

    Attributes:
        text: what, in the same words on all processes; empty if there is nothing to report.
        error: what to raise here, if it is to be raised.
    """

    text: str
    error: BaseException


class StageError(Exception):
    """A stage failed on at least one process; raised on all of them alike.

    Attributes:
        failure: what went wrong.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


def warn(message: str) -> None:
    """Warn in the name of the code that calls this, on the first process alone.

    Args:
        message: for the user.
    """
    # One more than Lightning's default, for this function.
    rank_zero_warn(message, stacklevel=5, category=SaliencyWarning)


def describe_error(error: BaseException) -> str:
    """Return type and message of an exception; "" for :class:`AbandonedError`.

    Never fails itself, and returns text that can be printed anywhere, and read: of a very long
    message its beginning.
    """
    if isinstance(error, AbandonedError):
        return ""
    try:
        message = str(error)
    except PASSED_ON:
        raise
    except BaseException as broken:
        message = f"(its message cannot be read: {type(broken).__name__})"
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:_LONGEST_MESSAGE]}... ({len(message)} letters)"
    text = f"{type(error).__name__}: {message}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, on the device or on the host."""
    # torch has an exception for the device, and a mere RuntimeError for the host.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "not enough memory" in describe_error(error)
    )


class FailureLog:
    """Reports failures, and counts them for each part of an explanation.

    A part is a stage or one method's maps. After three failures in a row it is disabled.

    Args:
        on_error: "warn" or "raise".

    Attributes:
        total: failures so far, of all parts.

    Raises:
        InputError: ``on_error`` is neither.
    """

    def __init__(self, on_error: OnError) -> None:
        if on_error not in ("warn", "raise"):
            raise InputError(f"Expected on_error to be 'warn' or 'raise', got {on_error!r}.")
        self._on_error = on_error
        self._in_a_row: dict[str, int] = {}
        self.total = 0

    def is_disabled(self, part: str) -> bool:
        """Whether a part has failed so often in a row that it is not tried any more."""
        return self._in_a_row.get(part, 0) >= _MOST_FAILURES_IN_A_ROW

    def record(self, outcomes: Mapping[str, Failure | None], epoch: int) -> None:
        """Count what has failed, and warn once for each cause.

        Args:
            outcomes: for each part that was tried what went wrong, None if nothing did; the same
                parts and texts on all processes.
            epoch: named in the warning.

        Raises:
            BaseException: the first of the failures, if they are to be raised.
        """
        failed: dict[str, list[str]] = {}
        for part, failure in outcomes.items():
            if failure is None:
                self._in_a_row[part] = 0
                continue
            self.total += 1
            if failure.text:
                if self._on_error == "raise":
                    raise failure.error
                self._in_a_row[part] = self._in_a_row.get(part, 0) + 1
                failed.setdefault(failure.text, []).append(part)
        for text, parts in failed.items():
            off = [part for part in parts if self.is_disabled(part)]
            warn(
                f"The explanation of epoch {epoch} failed ({', '.join(parts)}) and is skipped; "
                f"training goes on{_consequence(off)}. {text}"
            )
        for failure in outcomes.values():
            if failure is not None:
                _free_frames(failure.error)


def _free_frames(error: BaseException) -> None:
    """Free the local variables, tensors too, that an exception and its causes hold on to."""
    waiting: list[BaseException | None] = [error]
    # Causes can form a ring: ``raise error from error`` is allowed.
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__]
        members = getattr(one, "exceptions", ()) if _is_group(one) else ()
        waiting += [member for member in members if isinstance(member, BaseException)]
        # Exceptions can be frozen dataclasses, or refuse to be written to in other ways.
        BaseException.__setattr__(one, "__traceback__", None)


def _is_group(error: BaseException) -> bool:
    # By name: Python 3.10 has no exception groups of its own.
    return any(kind.__name__ == "BaseExceptionGroup" for kind in type(error).__mro__)


def _consequence(off: list[str]) -> str:
    if not off:
        return ""
    return f", and after three failures in a row nothing more is explained ({', '.join(off)})"
