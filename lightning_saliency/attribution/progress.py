"""How far a long explanation is, for whoever wants to show it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

__all__ = ["Listener", "listening", "report"]

Listener: TypeAlias = Callable[[int, int], None]
"""Called with how many steps are done, and how many there are; never with a tensor, because a
look at one would wait for the device."""

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let ``listener`` hear of the explanations that are made inside.

    Methods need no setting for this, so it works through every way in which they are called.

    Args:
        listener: called often, so it should be quick.

    Example:
        >>> heard = []
        >>> with listening(lambda done, total: heard.append((done, total))):
        ...     report(1, 2)
        ...     report(2, 2)
        >>> report(1, 2)  # Nobody listens.
        >>> heard
        [(1, 2), (2, 2)]
    """
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def report(done: int, total: int) -> None:
    """Say how far an explanation is; methods that take long call this now and then.

    Args:
        done: steps that are done, from 0 to ``total``; never less than before.
        total: steps in all.
    """
    listener = _LISTENER.get()
    if listener is not None:
        listener(done, total)
