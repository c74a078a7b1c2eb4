"""Notice that the validation data are others than those that the samples were taken from."""

from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_saliency.callbacks.failures import Failure, describe_error
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.samples.collector import first_of_all_processes
from lightning_saliency.callbacks.samples.fetch import fetch_batch
from lightning_saliency.callbacks.samples.sample_set import Samples, SampleSet
from lightning_saliency.errors import InputError, SaliencyWarning
from lightning_saliency.network.undisturbed import other_random_numbers

# Of the largest value in the pictures. Less is the rounding of another precision or device.
_TOLERANCE = 0.01


class ChangeDetector:
    """Compares the samples of a resumed run with what its validation data hold now.

    Data that look different each time, by augmentation or because they are shuffled, say nothing.
    Samples by index are therefore fetched twice, with other random numbers; the first samples are
    seen again in the second validation run of a fit, and :attr:`Samples.steady` keeps whether they
    were the same. A run that goes on and does not know it waits for its own second one.

    Nothing that goes wrong here is raised: the samples themselves are there.

    Args:
        samples: that are explained.
        dataloader_idx: of the validation loader that they come from.
    """

    def __init__(self, samples: Samples, dataloader_idx: int) -> None:
        self._samples = samples
        self._dataloader_idx = dataloader_idx
        self._now = Samples(samples.count, samples.unpack)
        self._last: SampleSet | None = None
        self._failure: Exception | None = None
        self._is_open = self._goes_on = False

    def open(self) -> None:
        """A fit begins; its checkpoint, if it has one, is loaded."""
        self._goes_on = self._samples.known is not None
        self._is_open = not self._samples.are_given and self._samples.steady is not False
        self._last = self._failure = None

    def begin(self, context: RunContext) -> None:
        """A validation run begins: look at samples by index, prepare to see the first ones."""
        self._now.begin()
        if self._is_watching(context) and self._samples.indices is not None:
            # They can be fetched as often as is needed; a fresh run need not.
            if self._goes_on:
                self._look(self._samples.indices, context)
            self._is_open = False

    def take(self, batch: Any, dataloader_idx: int, context: RunContext) -> None:
        """See the first samples.

        Args:
            batch: what the model's ``validation_step`` receives.
            dataloader_idx: which loader it comes from.
            context: of the run.
        """
        is_ours = dataloader_idx == self._dataloader_idx and not context.trainer.sanity_checking
        if is_ours and self._failure is None and self._is_watching(context):
            try:
                self._now.collect(batch)
            except Exception as error:
                self._failure = error

    def end(self, context: RunContext) -> None:
        """The validation run ends: compare, on all processes, and warn of what has changed."""
        if context.trainer.sanity_checking or not self._is_watching(context):
            return
        seen = self._seen(context)
        if isinstance(seen, Failure):
            self._is_open = False
        elif seen is not None:
            self._compare(seen)

    def _is_watching(self, context: RunContext) -> bool:
        return self._is_open and self._samples.known is not None and context.is_fitting

    def _seen(self, context: RunContext) -> SampleSet | Failure | None:
        seen = context.attempt(self._collected)
        if isinstance(seen, Failure):
            return seen
        try:
            return first_of_all_processes(seen, self._samples.count, context)
        except InputError as error:
            return Failure(describe_error(error), error)

    def _collected(self) -> SampleSet | None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return self._now.collected()

    def _compare(self, seen: SampleSet) -> None:
        known = self._samples.known
        if known is None:
            return
        if not self._samples.steady:
            # A run that goes on may have the random numbers of the run before: known says nothing.
            last = self._last if self._goes_on else known
            self._last = seen
            if last is None:
                return
            self._samples.steady = not differing(last, seen)
        changed = differing(known, seen)
        if changed and self._samples.steady:
            self._warn(f"numbers {changed} of the first {self._samples.count}")
        self._is_open, self._last = False, None

    def _look(self, indices: list[int], context: RunContext) -> None:
        known = self._samples.known
        looks: list[SampleSet] = []
        try:
            for turn in (1, 2):
                with other_random_numbers(context.pl_module.device, turn):
                    batch = fetch_batch(context, self._dataloader_idx, indices)
                if known is None or batch is None:
                    return
                looks.append(self._samples.of(batch))
                changed = differing(known, looks[0])
                if not changed:
                    return
            if not differing(*looks):
                self._warn(f"indices {[indices[number] for number in changed]}")
        except Exception as error:
            self._warn(f"indices {indices}", f" They cannot be fetched: {error}")

    def _warn(self, which: str, why: str = "") -> None:
        rank_zero_warn(
            f"The validation data have changed: {which} of validation loader "
            f"{self._dataloader_idx} are not the samples any more that this callback has explained "
            f"so far.{why} Those go on being explained, so that drift and filmstrips stay "
            "comparable. To explain what is there now, give the callback another name, for "
            "instance name='new_data'.",
            category=SaliencyWarning,
        )


def differing(first: SampleSet, second: SampleSet) -> list[int]:
    """Return the numbers of the samples whose picture, label or region differs.

    Pictures are the same up to the rounding of other precisions and devices. What only one of the
    two has, more samples for instance, is not compared.

    Args:
        first: N samples.
        second: M samples.
    """
    count = min(len(first), len(second))
    if first.images.shape[1:] != second.images.shape[1:]:
        return list(range(count))
    images = [each.images[:count].detach().cpu().double() for each in (first, second)]
    most = _TOLERANCE * float(images[0].abs().max())
    differ = (images[0] - images[1]).abs().flatten(1).amax(1) > most
    pairs = [(first.labels, second.labels)]
    pairs += [(first.regions[n], second.regions[n]) for n in first.regions if n in second.regions]
    for one, other in pairs:
        if one is not None and other is not None:
            differ |= _unequal(one[:count].cpu(), other[:count].cpu())
    return [int(number) for number in differ.nonzero().flatten()]


def _unequal(one: Tensor, other: Tensor) -> Tensor:
    if one.shape != other.shape:
        return torch.ones(len(one), dtype=torch.bool)
    return (one != other).reshape(len(one), -1).any(1)
