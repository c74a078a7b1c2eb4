"""How everything here is timed: CPU time of this process, one thread, in alternation."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

__all__ = ["Verdict", "alternate", "keep_memory", "ratio", "spread", "table", "verdict"]

Verdict = dict[str, object]
"""One row of a table: what was measured, its ratios, and the ratios that were wanted."""


# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_memory() -> bool:
    """Let this process keep what is freed, instead of giving it back and asking for it again.

    By default glibc gives memory back when a large piece of it is freed, or the last piece of its
    heap, and to get it again can take as long as half of what is computed in it. Users have that,
    too; but whether a rival has it depends on what else happens to lie behind its tensors, and
    differs from run to run.

    Returns:
        Whether the C library could be told.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


def alternate(rivals: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time each rival once per round, so that a slow minute of the machine meets all of them.

    Args:
        rivals: what is timed, by name; each is called once before, untimed.
        rounds: how often.

    Returns:
        By name the CPU seconds of this process, one for each round.
    """
    torch.set_num_threads(1)
    for run in rivals.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], name: str, other: str) -> float:
    """Return the median over the rounds of one rival's time over another's in the same round."""
    pairs = zip(seconds[name], seconds[other], strict=True)
    return statistics.median(mine / its for mine, its in pairs)


def spread(values: Sequence[float]) -> str:
    """Return median, minimum and maximum as text."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def verdict(
    what: str, value: float, wanted: float, *, at_least: bool = False, unit: str = "x"
) -> Verdict:
    """Return a row that says whether a measured ratio is as it should be.

    Args:
        what: was measured.
        value: the measured ratio.
        wanted: the largest that is allowed.
        at_least: it is the smallest that is allowed instead.
        unit: ``"x"``, or ``"%"`` for shares.
    """
    holds = value >= wanted if at_least else value <= wanted
    return {
        "what": what,
        "value": value,
        "wanted": f"{'>=' if at_least else '<='} {_in(unit, wanted)}",
        "shown": _in(unit, value),
        "holds": holds,
    }


def _in(unit: str, value: float) -> str:
    return f"{100 * value:.2f} %" if unit == "%" else f"{value:.2f}"


def table(title: str, rows: Sequence[Verdict]) -> str:
    """Return the rows as text, a line each; those that fail are marked."""
    width = max((len(str(row["what"])) for row in rows), default=0)
    lines = [
        f"  {row['what']!s:{width}s} {row['shown']!s:>9s}   {row['wanted']!s:>10s}"
        f"   {'' if row['holds'] else '<-- missed'}".rstrip()
        for row in rows
    ]
    return "\n".join([f"\n{title}", *lines])
