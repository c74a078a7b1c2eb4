"""Find the samples in a validation run, once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from typing_extensions import override

from lightning_saliency.callbacks.batch import Unpack
from lightning_saliency.callbacks.fetch import fetch_batch
from lightning_saliency.callbacks.ranks import first_samples_of_all
from lightning_saliency.callbacks.regions import warn_of_empty
from lightning_saliency.callbacks.samples import Samples, SampleSpec
from lightning_saliency.errors import SaliencyWarning

__all__ = ["GatheringCallback", "begin_to_gather", "keep_gathered"]


class GatheringCallback(pl.Callback, ABC):
    """A callback that gathers its samples from a validation run, or a test run.

    Args:
        samples: which ones.
        unpack: from a batch to (images, labels or None), if the batch is not of a usual form.
        dataloader_idx: the loader that they come from.

    Attributes:
        samples: the samples.
        dataloader_idx: as given.

    Raises:
        InputError: ``samples`` are none.
    """

    def __init__(self, samples: SampleSpec, unpack: Unpack | None, dataloader_idx: int) -> None:
        super().__init__()
        self.samples = Samples(samples, unpack)
        self.dataloader_idx = dataloader_idx

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to gather the samples, as long as they are not known."""
        begin_to_gather(self.samples, trainer, pl_module, self.dataloader_idx)

    @override
    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Gather samples in the form in which the model is about to see them."""
        if self.samples.indices is None and dataloader_idx == self.dataloader_idx:
            self.samples.gather(batch)

    @abstractmethod
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what was gathered, and explain it."""

    # trainer.test runs the same loop under other names.
    on_test_start = on_validation_start
    on_test_batch_start = on_validation_batch_start


def begin_to_gather(
    samples: Samples, trainer: pl.Trainer, pl_module: pl.LightningModule, dataloader_idx: int
) -> None:
    """Start from nothing, and fetch the samples that were given by index.

    Args:
        samples: to gather, unless they are known.
        trainer: whose validation run begins.
        pl_module: the module that validates.
        dataloader_idx: the validation loader that the samples come from.

    Raises:
        InputError: an index is out of range, or a batch cannot be unpacked.
    """
    samples.begin()
    if samples.known is None and samples.indices is not None:
        batch = fetch_batch(trainer, pl_module, dataloader_idx, samples.indices)
        if batch is not None:
            samples.gather(batch)


def keep_gathered(samples: Samples, trainer: pl.Trainer) -> None:
    """Keep what the validation run has shown, the same on all processes; warn if it is too little.

    Args:
        samples: that were gathered; nothing happens if they are known already.
        trainer: whose validation run ends.

    Raises:
        InputError: the images are of different sizes.
    """
    seen = samples.gathered()
    if samples.known is not None or seen is None:
        return
    if samples.indices is None:
        seen = first_samples_of_all(seen, samples.count, trainer)
    if len(seen) < samples.count:
        rank_zero_warn(
            f"Expected {samples.count} samples, but the validation run had only {len(seen)}; "
            "these are explained. Raise limit_val_batches, or lower samples.",
            category=SaliencyWarning,
        )
    warn_of_empty(seen.regions)
    samples.keep(seen)
