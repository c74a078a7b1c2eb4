"""Share the samples out over the processes of a run, and put the results together again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_saliency.callbacks.samples import SampleSet

__all__ = ["first_samples_of_all", "gather_shares", "on_every_rank", "share_of_this_rank"]

T = TypeVar("T")


def share_of_this_rank(samples: SampleSet, trainer: pl.Trainer) -> SampleSet:
    """Return the part of the samples that this process explains; of one size on all of them.

    Where they do not come out even, the last processes explain some samples a second time: the
    number of passes through a sharded model must be the same everywhere.

    Args:
        samples: the same on all processes.
        trainer: knows how many processes there are.
    """
    if trainer.world_size == 1:
        return samples
    size = -(-len(samples) // trainer.world_size)
    wanted = torch.arange(trainer.global_rank * size, (trainer.global_rank + 1) * size)
    wanted = wanted.remainder(len(samples)).to(samples.images.device)
    return samples.each(lambda tensor: tensor[wanted])


def gather_shares(part: Tensor, count: int, trainer: pl.Trainer) -> Tensor:
    """Put the results of all processes together, in the order of the samples.

    Args:
        part: (n, ...), results for this process's share, of one shape on all processes.
        count: how many samples there are.
        trainer: knows how many processes there are.

    Returns:
        (count, ...), the same on all processes.
    """
    if trainer.world_size == 1:
        return part
    gathered = trainer.strategy.all_gather(part.to(trainer.strategy.root_device))
    return gathered.flatten(0, 1)[:count].to(part.device)


def first_samples_of_all(part: SampleSet, count: int, trainer: pl.Trainer) -> SampleSet:
    """Return the first samples of the validation set, from those that each process has seen.

    A distributed sampler deals the dataset out like cards, so the first samples are every
    process's first, then every process's second, and so on.

    Args:
        part: the first samples that this process has seen.
        count: how many samples are wanted.
        trainer: knows how many processes there are.
    """
    if trainer.world_size == 1:
        return part[:count]
    size = min(len(part), -(-count // trainer.world_size))

    def dealt(mine: Tensor) -> Tensor:
        # Not all backends exchange bool.
        sent = mine.byte() if mine.dtype == torch.bool else mine
        gathered = trainer.strategy.all_gather(sent[:size].contiguous())
        return gathered.transpose(0, 1).flatten(0, 1)[:count].to(mine.dtype)

    return part.each(dealt)


def on_every_rank(compute: Callable[[], T], trainer: pl.Trainer) -> T:
    """Return ``compute()``; if it fails on one process, raise on all of them.

    Otherwise the process that failed would go on with training, and the others would wait for its
    results for ever.

    Args:
        compute: without communication between processes.
        trainer: knows how many processes there are.

    Raises:
        Exception: what ``compute`` raised here.
        RuntimeError: it failed on another process only.
    """
    if trainer.world_size == 1:
        return compute()
    failure: Exception | None = None
    result: T | None = None
    try:
        result = compute()
    except Exception as error:
        failure = error
    failed_here = torch.tensor(int(failure is not None), device=trainer.strategy.root_device)
    failed = trainer.strategy.all_gather(failed_here)
    if failure is not None:
        raise failure
    if bool(failed.any()):
        ranks = failed.flatten().nonzero().flatten().tolist()
        raise RuntimeError(
            f"the explanation failed on process {', '.join(map(str, ranks))}; its own log says why"
        )
    return result  # type: ignore[return-value]
