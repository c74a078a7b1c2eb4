"""Notice that the validation data are others than those that the samples were taken from."""

from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_saliency.callbacks.failures import Failure
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.samples.collector import SampleCollector
from lightning_saliency.callbacks.samples.sample_set import Samples, SampleSet, differing
from lightning_saliency.errors import SaliencyWarning


class ChangeDetector:
    """Compares the samples with what the validation data hold in a later run over them.

    Data that look different each time, by augmentation or because they are shuffled, say nothing.
    The samples are therefore seen again in the second validation run of a fit, and
    :attr:`Samples.steady` keeps whether they were the same. A resumed run that does not know it
    waits for its own second one.

    Nothing that goes wrong here is raised: the samples themselves are there.

    Args:
        samples: that are explained.
        dataloader_idx: of the validation loader that they come from.
    """

    def __init__(self, samples: Samples, dataloader_idx: int) -> None:
        self._samples = samples
        self._dataloader_idx = dataloader_idx
        again = Samples(samples.indices or samples.count, samples.unpack)
        self._again = SampleCollector(again, dataloader_idx)
        self._last: SampleSet | None = None
        self._is_open = self._is_resumed = self._is_looking = False

    def open(self) -> None:
        """A fit begins; its checkpoint, if it has one, is loaded."""
        self._is_resumed = self._samples.known is not None
        fixed = not self._samples.are_given and self._samples.chosen is None
        self._is_open = fixed and self._samples.steady is not False
        self._last = None

    def begin(self, context: RunContext) -> None:
        """A validation run begins: prepare to see the samples again."""
        known, sanity = self._samples.known, context.trainer.sanity_checking
        self._is_looking = self._is_open and known is not None and context.is_fitting and not sanity
        if self._is_looking:
            self._again.begin(context)

    def take(self, batch: Any, batch_idx: int, dataloader_idx: int, context: RunContext) -> None:
        """See a batch; see :meth:`SampleCollector.take`."""
        if self._is_looking:
            self._again.take(batch, batch_idx, dataloader_idx, context)

    def end(self, context: RunContext) -> None:
        """The validation run ends: compare, on all processes, and warn of what has changed."""
        if not self._is_looking:
            return
        self._is_looking = False
        seen = self._again.found(context)
        if isinstance(seen, Failure):
            self._is_open = False
        elif seen is not None and self._samples.known is not None:
            self._compare(self._samples.known, seen)

    def _compare(self, known: SampleSet, seen: SampleSet) -> None:
        if not self._samples.steady:
            # A resumed run may have the random numbers of the run before: known says nothing.
            last = self._last if self._is_resumed else known
            self._last = seen
            if last is None:
                return
            self._samples.steady = not differing(last, seen)
        changed = differing(known, seen)
        if changed and self._samples.steady:
            indices = self._samples.indices
            which = (
                f"indices {[indices[number] for number in changed]}"
                if indices
                else f"numbers {changed} of the first {self._samples.count}"
            )
            rank_zero_warn(
                f"The validation data have changed: {which} of validation loader "
                f"{self._dataloader_idx} are no longer the samples that this callback has "
                "explained so far. The callback keeps explaining the samples that it has, so that "
                "drift and filmstrips stay comparable. To explain what is there now, give the "
                "callback another name, for instance name='new_data'.",
                category=SaliencyWarning,
            )
        self._is_open, self._last = False, None
