"""Share the samples out over the processes of a run, and keep the processes together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_saliency.callbacks.explanation.faults import Fault, describe
from lightning_saliency.callbacks.samples.sample_set import SampleSet, joined

__all__ = [
    "attempt",
    "first_samples_of_all",
    "gather_shares",
    "numbers_of_this_rank",
    "share_of_this_rank",
]

T = TypeVar("T")


def numbers_of_this_rank(count: int, trainer: pl.Trainer) -> list[int]:
    """Return which of ``count`` samples this process explains; equally many on all of them.

    Where they do not come out even, the last processes explain some samples a second time: the
    number of passes through a sharded model must be the same everywhere. Processes that hold
    parts of the same tensors (tensor parallelism) explain the same samples.

    Args:
        count: how many samples there are.
        trainer: knows how many processes there are.
    """
    replicas, mine = _replicas(trainer)
    size = -(-count // replicas)
    return [number % count for number in range(mine * size, (mine + 1) * size)]


def share_of_this_rank(samples: SampleSet, trainer: pl.Trainer) -> SampleSet:
    """Return the part of the samples that this process explains.

    Args:
        samples: the same on all processes.
        trainer: knows how many processes there are.
    """
    if trainer.world_size == 1:
        return samples
    return samples[numbers_of_this_rank(len(samples), trainer)]


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
    return _of_each_replica(part, trainer).flatten(0, 1)[:count].to(part.device)


def first_samples_of_all(
    part: SampleSet | None, count: int, trainer: pl.Trainer
) -> SampleSet | None:
    """Return the first samples of the validation set, from those that each process has seen.

    A distributed sampler deals the dataset out like cards, so the first samples are every
    process's first, then every process's second, and so on.

    Args:
        part: the first samples that this process has seen; not necessarily as many on each, and
            None if it has seen none.
        count: how many samples are wanted.
        trainer: knows how many processes there are.

    Returns:
        The samples, the same on all processes; None if none has seen any.

    Raises:
        InputError: the images are of different sizes.
    """
    if trainer.world_size == 1:
        return None if part is None else part[:count]
    # As objects, on the CPU: what the processes have may differ in number and shape.
    held = None if part is None else part[:count].to("cpu")
    of_replica: dict[int, SampleSet] = {}
    for rank, replica in enumerate(_replica_of_each_rank(trainer)):
        seen: SampleSet | None = trainer.strategy.broadcast(held, src=rank)
        if seen is not None:
            of_replica[replica] = seen
    dealt = [
        seen[[turn]]
        for turn in range(count)
        for _, seen in sorted(of_replica.items())
        if turn < len(seen)
    ]
    return joined(dealt[:count]).to(trainer.strategy.root_device) if dealt else None


def attempt(
    act: Callable[[], T],
    trainer: pl.Trainer,
    told: Callable[[Exception], str] = describe,
) -> T | Fault:
    """Return ``act()``, or what went wrong; a failure on one process is one on all of them.

    Otherwise the process that failed would go on with training, and the others would wait for its
    results for ever. Every process must call this.

    Args:
        act: without communication between processes.
        trainer: knows how many processes there are.
        told: puts an exception into words.

    Returns:
        What ``act`` returned, if it did so on all processes; otherwise the fault, in the words of
        the first process that failed.
    """
    found: list[T] = []
    failure: Exception | None = None
    text = ""
    try:
        found.append(act())
    except Exception as error:
        failure, text = error, told(error)
    if trainer.world_size > 1:
        failed_here = torch.tensor(int(failure is not None), device=trainer.strategy.root_device)
        failed = trainer.strategy.all_gather(failed_here).flatten().nonzero().flatten().tolist()
        if failed:
            said: str = trainer.strategy.broadcast(text, src=failed[0])
            text = f"{said} (on process {', '.join(map(str, failed))})" if said else said
            failure = failure or RuntimeError(text)
    return found[0] if failure is None else Fault(text, failure)


def _replicas(trainer: pl.Trainer) -> tuple[int, int]:
    """Return how many copies of the model there are, and which of them is this process's."""
    dealt = getattr(trainer.strategy, "distributed_sampler_kwargs", None)
    if trainer.world_size == 1 or not dealt:
        return trainer.world_size, trainer.global_rank
    return dealt["num_replicas"], dealt["rank"]


def _replica_of_each_rank(trainer: pl.Trainer) -> list[int]:
    mine = torch.tensor(_replicas(trainer)[1], device=trainer.strategy.root_device)
    replica: list[int] = trainer.strategy.all_gather(mine).flatten().tolist()
    return replica


def _of_each_replica(part: Tensor, trainer: pl.Trainer) -> Tensor:
    """Return (replicas, ...), from tensors of one shape on all processes."""
    gathered = trainer.strategy.all_gather(part.to(trainer.strategy.root_device).contiguous())
    if _replicas(trainer)[0] == trainer.world_size:
        return gathered
    of_rank = _replica_of_each_rank(trainer)
    return gathered[[of_rank.index(replica) for replica in range(max(of_rank) + 1)]]
