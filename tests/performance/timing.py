"""How everything here is timed: CPU time of this process, one thread, in alternation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

__all__ = ["alternate", "spread"]


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


def spread(values: list[float]) -> str:
    """Return median, minimum and maximum as text."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
