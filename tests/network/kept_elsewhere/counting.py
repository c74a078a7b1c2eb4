"""Counts in a global, and in an object that is one."""

from __future__ import annotations

from types import SimpleNamespace

CALLS = 0
SEEN = SimpleNamespace(calls=0)


def count() -> int:
    global CALLS
    CALLS += 1
    return CALLS


def forget() -> None:
    global CALLS
    CALLS = SEEN.calls = 0
