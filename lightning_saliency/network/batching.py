"""Run a long list of inputs through a model in batches that fit the device's memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from lightning_saliency.errors import InputError

BatchSize: TypeAlias = int | Literal["auto"]
"""How many images go through the model at once; ``"auto"`` is a size that suits the device."""

# Many images keep an accelerator busy. On a CPU large activations are slow, because the C library
# gives their memory back to the system and has it cleared again for the next: MobileNetV2 takes
# twice as long for each of 32 images of 224 pixels as for each of 8, and 1.0 to 1.1 times as long
# where memory is kept (bench_rise.py). Nothing is timed at run time: the last digits of a map
# depend on the batch, and would then differ from run to run.
_AUTO_CPU = 32
_AUTO_CPU_PIXELS = 8 * 224 * 224
_AUTO_ACCELERATOR = 128

_Result = TypeVar("_Result")


@dataclass
class Batches:
    """Work on consecutive slices of a list, and halve them when the device runs out of memory.

    The smaller size is kept for the calls that follow.

    Args:
        size: the size to begin with, >= 1.
        device: where the work is done.
    """

    size: int
    device: torch.device

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
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return results


def batches_for(size: BatchSize, image: Tensor) -> Batches:
    """Return batches of images like these.

    Args:
        size: the size to begin with, >= 1, or ``"auto"``: on a CPU 32, or as many images as have
            the pixels of 8 of 224 x 224, rounded down to a power of two; elsewhere 128.
        image: (N, C, H, W), on the device where the work is done.

    Raises:
        InputError: ``size`` is neither.
    """
    check_batch_size(size)
    if not isinstance(size, str):
        return Batches(size, image.device)
    if image.device.type != "cpu":
        return Batches(_AUTO_ACCELERATOR, image.device)
    room = max(1, _AUTO_CPU_PIXELS // (image.shape[2] * image.shape[3]))
    return Batches(min(_AUTO_CPU, 1 << (room.bit_length() - 1)), image.device)


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
