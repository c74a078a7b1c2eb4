"""Progress of long explanations, for progress bars."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

Listener: TypeAlias = Callable[[int, int], None]
"""Called with how many steps are done, and how many there are; never with a tensor, because a
look at one would wait for the device."""

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Report the progress of explanations inside this context to ``listener``.

    Methods need no setting for this, however they are called.

    Args:
        listener: called often, so it should be quick.

    Example:
        >>> heard = []
        >>> with listening(lambda done, total: heard.append((done, total))):
        ...     report(1, 2)
        ...     report(2, 2)
        >>> report(1, 2)  # There is no listener.
        >>> heard
        [(1, 2), (2, 2)]
    """
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def report(done: int, total: int) -> None:
    """Report the progress of an explanation; long-running methods call this now and then.

    Args:
        done: steps that are done, from 0 to ``total``; never less than before.
        total: steps in all.
    """
    listener = _LISTENER.get()
    if listener is not None:
        listener(done, total)
