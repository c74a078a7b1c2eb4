"""Get single validation samples without touching the trainer's own loaders."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.errors import InputError
from lightning_saliency.network.undisturbed import preserved_random_streams


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


def has_indices(loader: Any) -> bool:
    """Return whether single items of a loader's dataset can be asked for.

    Args:
        loader: of whatever kind.
    """
    dataset = getattr(loader, "dataset", None)
    return hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)


def fetch_batch(context: RunContext, dataloader_idx: int, indices: list[int]) -> Any:
    """Return the dataset's items ``indices`` as a batch on the device, as the model would see it.

    A private loader collates them, so that neither the order, nor the workers, nor the random
    streams of the trainer's loaders are touched. They pass the module's own transfer hooks.

    Args:
        context: of a run with a validation loader.
        dataloader_idx: which validation loader's dataset.
        indices: into that dataset.

    Returns:
        The batch, or None if there is no loader yet.

    Raises:
        InputError: the dataset has no indices, or one is out of range.
    """
    trainer, pl_module = context.trainer, context.pl_module
    loader = validation_loader(trainer, dataloader_idx)
    if loader is None:
        return None
    dataset = getattr(loader, "dataset", loader)
    if not has_indices(loader):
        raise InputError(
            f"Expected a validation dataset with indices, got {type(dataset).__name__}, which has "
            f"no indices. Explain its first samples instead (samples={len(indices)}), or give "
            "samples=(images, labels)."
        )
    count = len(dataset)
    if max(indices) >= count:
        raise InputError(
            f"Expected indices into the validation dataset, which has {count} items (0 to "
            f"{count - 1}), got {max(indices)} in samples."
        )
    with preserved_random_streams({pl_module.device}), torch.inference_mode(False):
        side = DataLoader(
            dataset,
            batch_sampler=[indices],
            collate_fn=loader.collate_fn,
            # Without a generator of its own, a loader draws from the global stream.
            generator=torch.Generator(),
        )
        batch = next(iter(side))
        batch = trainer.precision_plugin.convert_input(batch)
        batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=dataloader_idx)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=dataloader_idx)
