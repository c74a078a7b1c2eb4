"""Run a long list of inputs through a model in batches that fit the device's memory."""

from collections.abc import Callable
from typing import Literal, TypeAlias, TypeVar

import torch

from lightning_saliency.errors import InputError

__all__ = ["BatchSize", "Batches", "check_batch_size"]

BatchSize: TypeAlias = "int | Literal['auto']"
"""How many inputs go through the model at once; ``"auto"`` is a size that suits the device."""

# Small enough to stay in the cache of a CPU; large enough to keep an accelerator busy.
_AUTO_CPU = 32
_AUTO_ACCELERATOR = 128

_Result = TypeVar("_Result")


class Batches:
    """Work on consecutive slices of a list, and halve them when the device runs out of memory.

    The smaller size is kept for the calls that follow.

    Args:
        size: the size to begin with, >= 1, or ``"auto"``: 32 on a CPU, 128 elsewhere.
        device: where the work is done.

    Raises:
        InputError: ``size`` is neither.
    """

    def __init__(self, size: BatchSize, device: torch.device) -> None:
        check_batch_size(size)
        if isinstance(size, str):
            size = _AUTO_CPU if device.type == "cpu" else _AUTO_ACCELERATOR
        self.size = size
        self._device = device

    def run(
        self,
        work: Callable[[slice], _Result],
        count: int,
        after: Callable[[int], None] | None = None,
    ) -> list[_Result]:
        """Return what ``work`` gives for slices that cover ``range(count)`` in order.

        Args:
            work: takes a slice of at most :attr:`size` entries; called again with the first half
                of the slice if the memory did not suffice, so it should have no side effects.
            count: how many entries there are.
            after: called after each slice with how many entries are done.

        Raises:
            torch.OutOfMemoryError: not even a single entry fits.
        """
        results: list[_Result] = []
        start = 0
        while start < count:
            batch = slice(start, min(start + self.size, count))
            try:
                results.append(work(batch))
            except torch.OutOfMemoryError:
                if batch.stop - start == 1:
                    raise
            else:
                start = batch.stop
                if after is not None:
                    after(start)
                continue
            # Outside the handler: the traceback held on to the tensors of the failed call.
            self.size = (batch.stop - start) // 2
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        return results


def check_batch_size(size: object) -> None:
    """Raise unless ``size`` is a positive integer or ``"auto"``.

    Args:
        size: the setting as the user gave it.

    Raises:
        InputError: it is neither.
    """
    if size == "auto" or (isinstance(size, int) and not isinstance(size, bool) and size >= 1):
        return
    raise InputError(f"Expected batch_size to be a positive integer or 'auto', got {size!r}.")
