"""Find the samples in a validation run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from typing_extensions import override

from lightning_saliency.callbacks.explanation.faults import Fault, describe
from lightning_saliency.callbacks.samples.batch import Unpack
from lightning_saliency.callbacks.samples.data_watch import DataWatch
from lightning_saliency.callbacks.samples.fetch import fetch_batch, has_indices, validation_loader
from lightning_saliency.callbacks.samples.regions import warn_of_empty
from lightning_saliency.callbacks.samples.sample_set import Samples, SampleSet, SampleSpec
from lightning_saliency.callbacks.samples.shares import attempt, first_samples_of_all
from lightning_saliency.errors import InputError, SaliencyWarning

__all__ = ["Gathering", "GatheringCallback", "SAMPLES", "fetch_probe"]

SAMPLES = "samples"
"""What can fail before there is anything to explain."""


class Gathering:
    """Gathers the samples during one validation run.

    Before training, what goes wrong is raised at once. In it, it is kept until all processes meet,
    at the end of the validation run.

    Args:
        samples: to be gathered.
        dataloader_idx: of the validation loader that they come from.
    """

    def __init__(self, samples: Samples, dataloader_idx: int) -> None:
        self._samples = samples
        self._dataloader_idx = dataloader_idx
        self._failure: Exception | None = None

    def begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A validation run begins: get samples by index, prepare to see the first ones.

        Args:
            trainer: of the run.
            pl_module: the module that validates.

        Raises:
            SaliencyError: before training, if an index or a batch cannot be used.
        """
        self._samples.begin()
        if self._samples.known is None and self._samples.indices is not None:
            with self._failing_later(trainer):
                batch = fetch_batch(trainer, pl_module, self._dataloader_idx, self._samples.indices)
                if batch is not None:
                    self._samples.gather(batch)

    def take(self, batch: Any, dataloader_idx: int, trainer: pl.Trainer) -> None:
        """Gather the first samples, in the form in which the model is about to see them.

        Args:
            batch: what the model's ``validation_step`` receives.
            dataloader_idx: which loader it comes from.
            trainer: of the run.

        Raises:
            InputError: before training, if the batch cannot be unpacked.
        """
        if self._samples.indices is None and dataloader_idx == self._dataloader_idx:
            with self._failing_later(trainer):
                self._samples.gather(batch)

    def end(self, trainer: pl.Trainer) -> Fault | None:
        """The validation run ends: from now on the gathered samples are explained.

        Args:
            trainer: of the run.

        Returns:
            What went wrong, if anything; the same on all processes.
        """
        seen = attempt(self._gathered, trainer)
        if self._samples.indices is None and not isinstance(seen, Fault):
            try:
                # What the processes have seen is put together by all of them in the same way.
                seen = first_samples_of_all(seen, self._samples.count, trainer)
            except InputError as error:
                seen = Fault(describe(error), error)
        if isinstance(seen, Fault):
            return seen
        if seen is None:
            return None
        if len(seen) < self._samples.count:
            rank_zero_warn(
                f"Expected {self._samples.count} samples, but the validation run had only "
                f"{len(seen)}; these are explained. Raise limit_val_batches, or lower samples.",
                category=SaliencyWarning,
            )
        warn_of_empty(seen.regions)
        self._samples.keep(seen)
        return None

    @contextmanager
    def _failing_later(self, trainer: pl.Trainer) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if trainer.state.fn != "fit" or trainer.sanity_checking:
                raise
            self._failure = error

    def _gathered(self) -> SampleSet | None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return self._samples.gathered()


def fetch_probe(
    samples: Samples, trainer: pl.Trainer, pl_module: pl.LightningModule, dataloader_idx: int
) -> SampleSet | None:
    """Return validation samples to try the methods on, None if there is no way to get at them.

    Args:
        samples: that will be explained; those given by index are fetched, or else the first.
        trainer: before its first training step.
        pl_module: the module that validates.
        dataloader_idx: the validation loader that the samples come from.

    Raises:
        InputError: an index is out of range, or a batch cannot be unpacked.
    """
    if samples.indices is None and not has_indices(validation_loader(trainer, dataloader_idx)):
        return None
    batch = fetch_batch(trainer, pl_module, dataloader_idx, samples.indices or [0])
    return None if batch is None else samples.of(batch)


class GatheringCallback(pl.Callback, ABC):
    """A callback that gathers its samples from a validation run, or a test run.

    Args:
        samples: which ones.
        unpack: from a batch to (images, labels or None), if the batch is not of a usual form.
        dataloader_idx: the loader that they come from.

    Attributes:
        samples: the samples.
        dataloader_idx: as given.
        gathering: gathers them; ask it for what went wrong at the end of the run.
        watch: notices when the data are others in a run that goes on; open it when a fit begins.

    Raises:
        InputError: ``samples`` are none.
    """

    def __init__(self, samples: SampleSpec, unpack: Unpack | None, dataloader_idx: int) -> None:
        super().__init__()
        self.samples = Samples(samples, unpack)
        self.dataloader_idx = dataloader_idx
        self.gathering = Gathering(self.samples, dataloader_idx)
        self.watch = DataWatch(self.samples, dataloader_idx)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to gather the samples, as long as they are not known."""
        self.watch.begin(trainer, pl_module)
        self.gathering.begin(trainer, pl_module)

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
        self.watch.take(batch, dataloader_idx, trainer)
        self.gathering.take(batch, dataloader_idx, trainer)

    @abstractmethod
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what was gathered, and explain it."""

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare what was explained with what the data hold now."""
        self.watch.end(trainer)

    # trainer.test runs the same loop under other names.
    on_test_start = on_validation_start
    on_test_batch_start = on_validation_batch_start
