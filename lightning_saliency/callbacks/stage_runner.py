"""The one place that decides whether a stage is tried, times it, and records what went wrong."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import ClassVar, TypeVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from lightning_saliency.callbacks.budget import Budget
from lightning_saliency.callbacks.explanation import ExplanationRound
from lightning_saliency.callbacks.failures import (
    PASSED_ON,
    AbandonedError,
    Failure,
    FailureLog,
    StageError,
    describe_error,
    warn,
)
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.samples.sample_set import SampleSet

T = TypeVar("T")

# What one more sample in a batch takes, where one alone takes 1. On a CPU it is 0.35 to 0.4 for a
# small network (tests/performance/bench_epoch.py); nearer to 1 where one picture fills the device.
_COST_OF_ONE_MORE = 2 / 3


class Stage(ABC):
    """One thing that is done with an explanation; owns the state that it needs for it.

    :class:`StageRunner` runs it: it need not catch anything, look at the clock or count. What it
    does on one process alone it does in :meth:`RunContext.require`, so that all processes learn
    whether it failed.

    Attributes:
        name: in reports of failures.
        needs_room: whether it takes about as long as an explanation, and so is only tried if the
            budget has room for another one.
        every: it is due at the first and every so many explanations that gave maps, unless it
            says otherwise.
    """

    name: ClassVar[str]
    needs_room: ClassVar[bool] = False
    every: int = 1

    def prepare(self, context: RunContext, probe: SampleSet) -> None:  # noqa: B027 (most need none)
        """Check before the first training step that the settings fit the samples and the module.

        Args:
            context: of the run.
            probe: some of the samples, as they come from the batch.

        Raises:
            SaliencyError: they do not.
        """

    def is_due(self, context: RunContext, round: ExplanationRound) -> bool:
        """Return whether there is something to do, the same on all processes."""
        return bool(round.explanations) and (round.count - 1) % self.every == 0

    @abstractmethod
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        """Do it; called on all processes.

        Args:
            context: of the run.
            round: what was just explained.

        Raises:
            StageError: it failed on one of the processes.
        """


class StageRunner:
    """Runs the stages of explanations within the budget, and lets no failure through to training.

    Args:
        budget: of the run.
        failures: counts what goes wrong, and reports it.

    Attributes:
        budget: as given.
        failures: as given.
    """

    def __init__(self, budget: Budget, failures: FailureLog) -> None:
        self.budget = budget
        self.failures = failures

    def run(
        self, name: str, act: Callable[[], T], context: RunContext, needs_room: bool = False
    ) -> T | None:
        """Return ``act()``; None if it was not tried or has failed.

        Args:
            name: of the stage, in reports.
            act: what goes wrong in it on one process alone must come out on all of them; see
                :meth:`RunContext.require`.
            context: of the run.
            needs_room: whether it is only tried if the budget has room for another explanation.

        Raises:
            BaseException: what went wrong, if failures are to be raised.
        """
        if self.failures.is_disabled(name) or (needs_room and not self.has_room(context)):
            return None
        found: T | None = None
        failure: Failure | None = None
        with self.budget.spending():
            try:
                found = act()
            except StageError as error:
                failure = error.failure
            except PASSED_ON:
                raise
            except BaseException as error:
                failure = Failure(describe_error(error), error)
        self.failures.record({name: failure}, context.epoch)
        return found

    def run_stage(self, stage: Stage, context: RunContext, round: ExplanationRound) -> None:
        """Run a stage, if it is due; see :meth:`run`."""
        if stage.is_due(context, round):
            self.run(stage.name, partial(stage.run, context, round), context, stage.needs_room)

    @contextmanager
    def explanation(self) -> Iterator[None]:
        """Book the stages inside as one explanation; the next is expected to take as long.

        Of one in which something fails the time is booked too, but it says nothing of what a whole
        explanation takes.
        """
        before = self.failures.total
        with suppress(AbandonedError), self.budget.explaining():
            yield
            if self.failures.total > before:
                raise AbandonedError

    def has_room(self, context: RunContext) -> bool:
        """Return whether the budget has room for what takes as long as the last explanation.

        Rank zero decides for all processes. What a user asks for outside of training, by
        ``trainer.validate`` for instance, is always allowed.
        """
        if self.budget.share is None or not context.is_fitting:
            return True
        return context.broadcast(self.budget.allows_next(0.0))

    def may_explain(self, context: RunContext, count: int, rehearse: Callable[[], object]) -> bool:
        """Return whether all samples may be explained now, and count it if not.

        Before the first explanation one sample is explained for the account alone, to know what all
        of them will take. Rank zero decides for all processes.

        Args:
            context: of the run.
            count: how many samples there are.
            rehearse: explains one of them.
        """
        budget = self.budget
        if budget.share is None or not context.is_fitting:
            return True
        # What the accelerator still has to do for the validation must not be booked as ours.
        if context.device.type == "cuda":
            torch.cuda.synchronize(context.device)
        if budget.needs_estimate:
            mine = len(context.numbers_of_this_rank(count))
            # What goes wrong here goes wrong in the explanation, too, and is reported there.
            with suppress(Exception), budget.estimating(1 + (mine - 1) * _COST_OF_ONE_MORE):
                rehearse()
        if context.broadcast(budget.allows_next(context.progress)):
            return True
        budget.skipped += 1
        if budget.skipped == 1:
            rank_zero_info(
                f"An explanation takes about {budget.cost:.2g} s, more than "
                f"max_overhead={budget.share} of the run's {budget.elapsed:.2g} s leaves room for; "
                f"it is skipped. About every {budget.cost / budget.share:.2g} s there is room for "
                "one."
            )
        return False

    def log_overhead(self, prefix: str, context: RunContext) -> None:
        """Log the share of the run's time that explanations have taken so far.

        Callbacks without a name of their own write to one tag, in which their shares add up.

        Args:
            prefix: put before the tag.
            context: of the run.
        """
        if not context.is_fitting:
            return
        # Rank zero's clock for all; Lightning adds up over processes, too.
        overhead = context.broadcast(self.budget.overhead) / context.trainer.world_size
        context.log_numbers({f"{prefix}saliency_overhead": overhead}, 1, reduce_fx="sum")

    def report_skipped(self) -> None:
        """Say at the end of a run how often the budget was kept by leaving an explanation out."""
        budget = self.budget
        if not budget.skipped:
            return
        if budget.made:
            rank_zero_info(
                f"Explanations took {budget.overhead:.1%} of the run's time; {budget.made} were "
                f"made and {budget.skipped} skipped to keep within max_overhead={budget.share}."
            )
        else:
            warn(
                f"Nothing was explained: max_overhead={budget.share} of the run's "
                f"{budget.elapsed:.2g} s left no room for an explanation of about "
                f"{budget.cost:.2g} s, and {budget.skipped} were skipped. Raise max_overhead, or "
                "lower samples or the method's own settings."
            )
