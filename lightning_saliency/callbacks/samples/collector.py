"""Collect the samples during a validation run, in the form in which the model sees them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_saliency.callbacks.failures import Failure, StageError, describe_error
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.samples.batch import class_indices
from lightning_saliency.callbacks.samples.chosen import Chosen, Wrong
from lightning_saliency.callbacks.samples.fetch import (
    Rows,
    check_indices,
    fetch_batch,
    rows_of,
    validation_loader,
)
from lightning_saliency.callbacks.samples.regions import warn_of_empty
from lightning_saliency.callbacks.samples.sample_set import (
    Samples,
    SampleSet,
    concat,
    differing,
)
from lightning_saliency.errors import InputError, SaliencyWarning
from lightning_saliency.network.isolation.process_state import other_random_numbers

_ALL = 1 << 30


class SampleCollector:
    """Collects the samples during one validation run.

    Before training, what goes wrong is raised at once. In it, it is kept until all processes meet,
    at the end of the validation run.

    Args:
        samples: to be collected.
        dataloader_idx: of the validation loader that they come from.

    Attributes:
        probe: a sample as the model sees them, to try the methods on; None before there is one.
    """

    def __init__(self, samples: Samples, dataloader_idx: int) -> None:
        self._samples = samples
        self._dataloader_idx = dataloader_idx
        self._failure: Exception | None = None
        self._rows: Rows | None = None
        self._by_place: dict[int, SampleSet] = {}
        self.probe: SampleSet | None = None

    def begin(self, context: RunContext) -> None:
        """A validation run begins: find out how to get samples by index, look for the first ones.

        Raises:
            SaliencyError: before training, if an index or a batch cannot be used.
        """
        self._samples.begin()
        self._rows, self._by_place = None, {}
        indices = self._samples.indices
        if self._samples.known is None and indices is not None:
            with self._failing_later(context):
                check_indices(validation_loader(context.trainer, self._dataloader_idx), indices)
                self._rows = rows_of(context, self._dataloader_idx, indices)
                if self._rows is None:
                    self._samples.collect(fetch_batch(context, self._dataloader_idx, indices))

    def check_loader(self, context: RunContext) -> None:
        """Check that there are such a loader and such items, as far as it can be without reading.

        Raises:
            InputError: there are not.
        """
        loader = validation_loader(context.trainer, self._dataloader_idx)
        if loader is not None and self._samples.indices is not None:
            check_indices(loader, self._samples.indices)

    def take(
        self,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
        context: RunContext,
        predict: Callable[[SampleSet], Tensor] | None = None,
    ) -> None:
        """Take samples from a batch that the model is about to see.

        Args:
            batch: what the model's ``validation_step`` receives.
            batch_idx: its number in the validation run.
            dataloader_idx: which loader it comes from.
            context: of the run.
            predict: what the model predicts for samples, where these are chosen by it.

        Raises:
            InputError: before training, if the batch cannot be unpacked.
        """
        if dataloader_idx != self._dataloader_idx or self._samples.known is not None:
            return
        with self._failing_later(context):
            if self._samples.indices is None:
                self._collect(batch, context, predict)
            elif self._rows is not None:
                self._take_rows(self._rows, batch, batch_idx)

    def _collect(
        self, batch: Any, context: RunContext, predict: Callable[[SampleSet], Tensor] | None
    ) -> None:
        if self._samples.chosen is not None:
            self.probe = self.probe or self._samples.of(batch)[:1]
        # Processes that hold parts of one model make the same number of passes of it.
        is_done = self._samples.is_complete and context.trainer.world_size == 1
        asked = None if context.trainer.sanity_checking or is_done else predict
        self._samples.collect(batch, asked)

    def found(self, context: RunContext) -> SampleSet | Failure | None:
        """The validation run ends: put together what all processes have seen.

        Returns:
            The samples; None if there are none; or what went wrong. The same on all processes.
        """
        seen = context.attempt(self._collected)
        if isinstance(seen, Failure):
            return seen
        try:
            return self._of_all_processes(seen, context)
        except StageError as error:
            return error.failure
        except InputError as error:
            return Failure(describe_error(error), error)

    def end(self, context: RunContext) -> tuple[Failure | None, list[int]]:
        """The validation run ends: from now on the collected samples are explained.

        Returns:
            What went wrong, if anything; and the numbers of the samples that look otherwise than in
            the checkpoint that the run resumes from. The same on all processes.
        """
        found = self.found(context)
        if isinstance(found, Failure):
            return found, []
        if found is None:
            return None, []
        if isinstance(self._samples.chosen, Wrong) and len(found) < self._samples.count:
            rank_zero_warn(
                f"Expected {self._samples.count} samples that the model gets wrong, but in the "
                f"validation run it got only {len(found)} wrong; these are explained.",
                category=SaliencyWarning,
            )
        elif self._samples.chosen is None and len(found) < self._samples.count:
            rank_zero_warn(
                f"Expected {self._samples.count} samples, but the validation run had only "
                f"{len(found)}; these are explained. Raise limit_val_batches, or lower samples.",
                category=SaliencyWarning,
            )
        warn_of_empty(found.regions)
        return None, self._samples.keep(found, self._is_steady(found, context))

    def _is_steady(self, found: SampleSet, context: RunContext) -> bool | None:
        """Read samples by index once more, with other random numbers; None if that fails."""
        indices = self._samples.indices
        if indices is None:
            return None
        with other_random_numbers(context.pl_module.device, 1):
            again = context.attempt(
                lambda: self._samples.of(fetch_batch(context, self._dataloader_idx, indices, 1))
            )
        return None if isinstance(again, Failure) else not differing(found, again)

    def _take_rows(self, rows: Rows, batch: Any, batch_idx: int) -> None:
        places, expected = rows.of_batch(batch_idx)
        if not places and self.probe is not None:
            return
        found = self._samples.of(batch)
        self.probe = self.probe or found[:1]
        # A collate function that drops or adds items: rows say nothing of indices then.
        if len(found) == expected:
            self._by_place |= {place: found[[row]] for row, place in places.items()}

    def _of_all_processes(self, seen: SampleSet | None, context: RunContext) -> SampleSet | None:
        indices = self._samples.indices
        if indices is None and self._samples.chosen is not None:
            return chosen_of_all_processes(seen, self._samples.chosen, context)
        if indices is None:
            return first_of_all_processes(seen, self._samples.count, context)
        if self._rows is None:
            return seen
        found: dict[int, SampleSet] = {}
        held = {place: one.to("cpu") for place, one in self._by_place.items()}
        for rank in range(context.trainer.world_size):
            found |= context.broadcast(held, src=rank)
        if len(found) == len(indices):
            return concat([found[place] for place in range(len(indices))]).to(context.device)
        fetch = partial(fetch_batch, context, self._dataloader_idx, indices)
        return context.require(lambda: self._samples.of(fetch()))

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


def chosen_of_all_processes(
    part: SampleSet | None, chosen: Chosen, context: RunContext
) -> SampleSet | None:
    """Return the chosen ones among the samples that the processes have chosen.

    Args:
        part: what this process has chosen; None if nothing.
        chosen: by what they are.
        context: of the run.

    Returns:
        The samples, the same on all processes; None if there are none.

    Raises:
        InputError: the images are of different sizes.
    """
    if context.trainer.world_size == 1:
        return part
    # More than any process can have.
    found = first_of_all_processes(part, _ALL, context)
    if found is None:
        return None
    labels = class_indices(found.labels, "the samples")
    # All of them were wrong where they were seen.
    places = chosen.places(labels, labels - 1, labels[:0])
    return found[places]


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
    longest = max((len(seen) for seen in of_replica.values()), default=0)
    dealt = [
        seen[[turn]]
        for turn in range(min(count, longest))
        for _, seen in sorted(of_replica.items())
        if turn < len(seen)
    ]
    return concat(dealt[:count]).to(context.device) if dealt else None
