"""The streams of random numbers that the whole process shares."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def preserved_random_streams(devices: set[torch.device] | None = None) -> Iterator[None]:
    """Restore the random streams of the CPU, NumPy, Python and ``devices`` on leaving.

    Args:
        devices: accelerators whose generators are restored too; the CPU is always restored.
    """
    cuda = [d for d in devices or () if d.type == "cuda"]
    mps = any(d.type == "mps" for d in devices or ())
    python_state, numpy_state = random.getstate(), np.random.get_state()
    cpu_state = torch.get_rng_state()
    cuda_states = [(d, torch.cuda.get_rng_state(d)) for d in cuda]
    mps_state = torch.mps.get_rng_state() if mps else None
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu_state)
        for device, state in cuda_states:
            torch.cuda.set_rng_state(state, device)
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)


@contextmanager
def other_random_numbers(device: torch.device, turn: int) -> Iterator[None]:
    """Move the random streams on, and restore them on leaving.

    Args:
        device: whose stream is moved beside those of the CPU, NumPy and Python.
        turn: how far; each turn, and none, gives other numbers.
    """
    with preserved_random_streams({device}):
        for where in {torch.device("cpu"), device}:
            torch.rand(turn, device=where)
        np.random.random(turn)
        for _ in range(turn):
            random.random()
        yield
