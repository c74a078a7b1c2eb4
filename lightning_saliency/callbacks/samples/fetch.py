"""Get chosen items of the validation dataset: as rows of the batches that pass, or by reading.

In this order, because it must make no difference to training that we look:

1. *Watch.* Where the loader gives the dataset's items in their order, item i is row i of the
   batches that pass anyway; :class:`Rows` says which. Nothing is read.
2. *A worker of our own*, where the user's loader has workers: items are read as they always are,
   in another process, with the user's ``worker_init_fn``, context and ``collate_fn``.
3. *In this process*, where the user reads here too; and then the dataset and all that Python
   reaches from it (generators, counters, files opened lazily) are as before afterwards.
"""

from collections.abc import Mapping, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    SequentialSampler,
)

from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.errors import InputError
from lightning_saliency.network.isolation.process_state import preserved_random_streams
from lightning_saliency.network.isolation.snapshot import preserved_objects


def validation_loader(trainer: pl.Trainer, dataloader_idx: int) -> Any:
    """Return one of the trainer's validation (or test) loaders, None if there are none yet.

    They exist from the first validation run on (the sanity check, normally).

    Raises:
        InputError: there are fewer loaders.
    """
    loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    # Never ask a loader for its truth value: it would ask its dataset for a length.
    if loaders is None:
        return None
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    elif not isinstance(loaders, (list, tuple)):
        loaders = [loaders]
    if dataloader_idx >= len(loaders):
        raise InputError(
            f"Expected dataloader_idx to name one of the {len(loaders)} validation loaders (0 to "
            f"{len(loaders) - 1}), got {dataloader_idx}."
        )
    return loaders[dataloader_idx]


def check_indices(loader: Any, indices: list[int]) -> None:
    """Check that a loader's dataset has items of these indices; none of them is read.

    Raises:
        InputError: the dataset has no indices, or one is out of range.
    """
    dataset = getattr(loader, "dataset", loader)
    is_map = hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)
    if not is_map or not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        kind = type(dataset).__name__ if not is_map else f"a {type(loader).__name__}"
        why = "which has no indices" if not is_map else "whose batches are not made of indices"
        raise InputError(
            f"Expected a validation loader with a dataset of indices, got {kind}, {why}. Explain "
            f"its first samples instead (samples={len(indices)}), or give "
            "samples=(images, labels)."
        )
    count = len(dataset)
    if max(indices) >= count:
        raise InputError(
            f"Expected indices into the validation dataset, which has {count} items (0 to "
            f"{count - 1}), got {max(indices)} in samples."
        )


@dataclass(frozen=True)
class Rows:
    """Which rows of the batches that pass in this process are wanted.

    Attributes:
        places: by row, counted over all batches, its place among the samples.
        batch_size: rows of each batch but the last.
        count: rows of all batches.
    """

    places: dict[int, int]
    batch_size: int
    count: int

    def of_batch(self, number: int) -> tuple[dict[int, int], int]:
        """Return what is wanted of a batch, by its row there, and how many rows it should have.

        Args:
            number: of the batch, from 0.
        """
        start = number * self.batch_size
        stop = min(start + self.batch_size, self.count)
        places = {row - start: place for row, place in self.places.items() if start <= row < stop}
        return places, stop - start


def rows_of(context: RunContext, dataloader_idx: int, indices: list[int]) -> Rows | None:
    """Return the rows that items of the dataset are, None where that cannot be foreseen.

    It can where a plain loader gives the items in their order, also one whose items are dealt out
    over processes, and all that are wanted lie within ``limit_val_batches``.

    Args:
        context: of a validation or test run.
        dataloader_idx: which loader.
        indices: into its dataset.
    """
    trainer = context.trainer
    loader = validation_loader(trainer, dataloader_idx)
    batches = getattr(loader, "batch_sampler", None)
    if type(loader) is not DataLoader or type(batches) is not BatchSampler:
        return None
    processes = _dealing(batches.sampler)
    if processes is None:
        return None
    number_of, mine = processes
    limits = trainer.num_test_batches if trainer.testing else trainer.num_val_batches
    limit = int(limits[dataloader_idx]) * batches.batch_size
    count = min(len(cast("Sized", batches.sampler)), limit)
    if batches.drop_last:
        count -= count % batches.batch_size
    if max(indices) // number_of >= count:
        return None
    places = {
        index // number_of: place
        for place, index in enumerate(indices)
        if index % number_of == mine
    }
    return Rows(places, batches.batch_size, count)


def _dealing(sampler: object) -> tuple[int, int] | None:
    """Return over how many processes a sampler deals the items in order, and which is ours."""
    if type(sampler) is SequentialSampler:
        return 1, 0
    if type(sampler) is DistributedSampler and not sampler.shuffle:
        return sampler.num_replicas, sampler.rank
    return None


def fetch_batch(context: RunContext, dataloader_idx: int, indices: list[int], seed: int = 0) -> Any:
    """Return the dataset's items ``indices`` as a batch on the device, as the model would see it.

    Neither the order, nor the workers, nor the random streams of the trainer's loaders are touched,
    nor what the dataset keeps in this process. The batch passes the module's own transfer hooks.

    Args:
        context: of a run with a validation loader.
        dataloader_idx: which validation loader's dataset.
        indices: into that dataset.
        seed: of the random numbers of the worker that reads them, if one does.

    Raises:
        InputError: the dataset has no such items, or they do not make a batch.
    """
    trainer, pl_module = context.trainer, context.pl_module
    loader = validation_loader(trainer, dataloader_idx)
    check_indices(loader, indices)
    with preserved_random_streams({pl_module.device}), torch.inference_mode(False):
        batch = _read(loader, indices, seed)
        batch = trainer.precision_plugin.convert_input(batch)
        batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=dataloader_idx)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=dataloader_idx)


def _read(loader: DataLoader[Any], indices: list[int], seed: int) -> Any:
    options: dict[str, Any] = {}
    with ExitStack() as stack:
        if loader.num_workers > 0:
            options = {
                "num_workers": 1,
                "worker_init_fn": loader.worker_init_fn,
                "multiprocessing_context": loader.multiprocessing_context,
                "timeout": loader.timeout,
            }
        else:
            stack.enter_context(preserved_objects(loader.dataset, loader.collate_fn))
        side = DataLoader(
            loader.dataset,
            batch_sampler=[indices],
            collate_fn=loader.collate_fn,
            # Without a generator of its own, a loader draws from the global stream.
            generator=torch.Generator().manual_seed(seed),
            **options,
        )
        try:
            # To its end, so that the worker ends too.
            (batch,) = list(side)
        except Exception as error:
            raise InputError(
                f"Expected items {indices} of the validation dataset to make a batch, but reading "
                f"them raised {type(error).__name__}: {error}. Items of one batch must be of one "
                "size, and the dataset must take integers. Explain the first samples instead "
                f"(samples={len(indices)}), or give samples=(images, labels)."
            ) from error
        return batch
