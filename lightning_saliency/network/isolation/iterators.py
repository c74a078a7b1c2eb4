"""Copies of iterators that Python itself makes, which stand at the same place."""

from __future__ import annotations

import ast
import copy
import itertools
import warnings
from typing import Any

# They hold what they run over and a place in it; a copy of one shares the former.
_RUN_OVER: tuple[Any, ...] = ([], (), range(0), range(2**70), "", "\u2026", b"", bytearray())
_PLACES = (*(type(iter(each)) for each in _RUN_OVER), type(reversed([])))


def copied_iterator(iterator: Any) -> Any:
    """Return an iterator that goes on as this one would, None if there is no such copy.

    Args:
        iterator: over a list, tuple, range, string or bytes; a count or a cycle of ``itertools``
            (a cycle only where Python can still take it apart, before 3.14); or any other, which
            gives None. It is not moved.
    """
    if type(iterator) in _PLACES:
        return copy.copy(iterator)
    if type(iterator) is itertools.count:
        return _copied_count(iterator)
    return _copied_cycle(iterator) if type(iterator) is itertools.cycle else None


def _copied_count(count: Any) -> Any:
    # It says where it stands, and that for numbers alone in a form that can be read.
    try:
        arguments = ast.literal_eval(repr(count).removeprefix("count"))
    except (ValueError, SyntaxError):
        return None
    return itertools.count(*arguments if isinstance(arguments, tuple) else (arguments,))


def _copied_cycle(cycle: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            _, (inner,), (seen, is_first_round) = cycle.__reduce__()
        except TypeError:
            return None
        copied = copied_iterator(inner)
        if copied is None:
            return None
        twin: Any = itertools.cycle(copied)
        # What it has seen in its first round is repeated; the copy sees its own.
        twin.__setstate__((list(seen), is_first_round))
        return twin
