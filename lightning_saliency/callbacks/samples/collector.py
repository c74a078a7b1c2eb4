"""Collect the samples during a validation run, in the form in which the model sees them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_saliency.callbacks.failures import Failure, describe_error
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.samples.fetch import fetch_batch, has_indices, validation_loader
from lightning_saliency.callbacks.samples.regions import warn_of_empty
from lightning_saliency.callbacks.samples.sample_set import Samples, SampleSet, concat
from lightning_saliency.errors import InputError, SaliencyWarning


class SampleCollector:
    """Collects the samples during one validation run.

    Before training, what goes wrong is raised at once. In it, it is kept until all processes meet,
    at the end of the validation run.

    Args:
        samples: to be collected.
        dataloader_idx: of the validation loader that they come from.
    """

    def __init__(self, samples: Samples, dataloader_idx: int) -> None:
        self._samples = samples
        self._dataloader_idx = dataloader_idx
        self._failure: Exception | None = None

    def begin(self, context: RunContext) -> None:
        """A validation run begins: get samples by index, prepare to see the first ones.

        Raises:
            SaliencyError: before training, if an index or a batch cannot be used.
        """
        self._samples.begin()
        if self._samples.known is None and self._samples.indices is not None:
            with self._failing_later(context):
                batch = fetch_batch(context, self._dataloader_idx, self._samples.indices)
                if batch is not None:
                    self._samples.collect(batch)

    def take(self, batch: Any, dataloader_idx: int, context: RunContext) -> None:
        """Take the first samples from a batch that the model is about to see.

        Args:
            batch: what the model's ``validation_step`` receives.
            dataloader_idx: which loader it comes from.
            context: of the run.

        Raises:
            InputError: before training, if the batch cannot be unpacked.
        """
        if self._samples.indices is None and dataloader_idx == self._dataloader_idx:
            with self._failing_later(context):
                self._samples.collect(batch)

    def end(self, context: RunContext) -> Failure | None:
        """The validation run ends: from now on the collected samples are explained.

        Returns:
            What went wrong, if anything; the same on all processes.
        """
        seen = context.attempt(self._collected)
        if self._samples.indices is None and not isinstance(seen, Failure):
            try:
                # What the processes have seen is put together by all of them in the same way.
                seen = first_of_all_processes(seen, self._samples.count, context)
            except InputError as error:
                seen = Failure(describe_error(error), error)
        if isinstance(seen, Failure):
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

    def fetch_probe(self, context: RunContext) -> SampleSet | None:
        """Return validation samples to try the methods on, None if there is no way to get at them.

        Args:
            context: before the first training step.

        Raises:
            InputError: an index is out of range, or a batch cannot be unpacked.
        """
        indices = self._samples.indices
        loader = validation_loader(context.trainer, self._dataloader_idx)
        if indices is None and not has_indices(loader):
            return None
        batch = fetch_batch(context, self._dataloader_idx, indices or [0])
        return None if batch is None else self._samples.of(batch)

    @contextmanager
    def _failing_later(self, context: RunContext) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not context.is_fitting or context.trainer.sanity_checking:
                raise
            self._failure = error

    def _collected(self) -> SampleSet | None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return self._samples.collected()


def first_of_all_processes(
    part: SampleSet | None, count: int, context: RunContext
) -> SampleSet | None:
    """Return the first samples of the validation set, from those that each process has seen.

    A distributed sampler deals the dataset out like cards, so the first samples are every
    process's first, then every process's second, and so on.

    Args:
        part: the first samples that this process has seen; not necessarily as many on each, and
            None if it has seen none.
        count: how many samples are wanted.
        context: of the run.

    Returns:
        The samples, the same on all processes; None if none has seen any.

    Raises:
        InputError: the images are of different sizes.
    """
    if context.trainer.world_size == 1:
        return None if part is None else part[:count]
    # As objects, on the CPU: what the processes have may differ in number and shape.
    held = None if part is None else part[:count].to("cpu")
    of_replica: dict[int, SampleSet] = {}
    for rank, replica in enumerate(context.replica_of_each_rank()):
        seen = context.broadcast(held, src=rank)
        if seen is not None:
            of_replica[replica] = seen
    dealt = [
        seen[[turn]]
        for turn in range(count)
        for _, seen in sorted(of_replica.items())
        if turn < len(seen)
    ]
    return concat(dealt[:count]).to(context.device) if dealt else None
