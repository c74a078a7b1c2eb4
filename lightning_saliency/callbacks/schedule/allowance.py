"""Whether the budget allows another explanation of this run, and what is said of it."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from lightning_saliency.callbacks.samples.shares import numbers_of_this_rank
from lightning_saliency.errors import SaliencyWarning

if TYPE_CHECKING:
    from lightning_saliency.callbacks.monitor import Monitor
    from lightning_saliency.callbacks.samples.sample_set import SampleSet
    from lightning_saliency.callbacks.schedule.budget import Budget

__all__ = ["has_room", "is_allowed", "log_overhead", "progress_of", "report"]

# What one more sample in a batch takes, where one alone takes 1. On a CPU it is 0.35 to 0.4 for a
# small network (tests/performance/bench_epoch.py); nearer to 1 where one picture fills the device.
_BESIDE_ANOTHER = 2 / 3


def is_allowed(
    budget: Budget,
    monitor: Monitor,
    samples: SampleSet,
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
) -> bool:
    """Return whether the samples may be explained now, and count it if not.

    Before the first explanation one sample is explained for the account alone, to know what all of
    them will take. Rank zero decides for all processes. What a user asks for outside of training,
    by ``trainer.validate`` for instance, is always allowed.

    Args:
        budget: of the run.
        monitor: explains.
        samples: that are to be explained.
        trainer: of the run.
        pl_module: the module that is explained.
    """
    if budget.share is None or trainer.state.fn != "fit":
        return True
    _finish_queued_work(trainer)
    if budget.needs_estimate:
        shares = len(numbers_of_this_rank(len(samples), trainer))
        # What goes wrong here goes wrong in the explanation, too, and is reported there.
        with suppress(Exception), budget.estimating(1 + (shares - 1) * _BESIDE_ANOTHER):
            monitor.rehearse(samples[:1], trainer, pl_module)
    if trainer.strategy.broadcast(budget.allows_next(progress_of(trainer))):
        return True
    budget.skipped += 1
    if budget.skipped == 1:
        rank_zero_info(
            f"An explanation takes about {budget.cost:.2g} s, more than "
            f"max_overhead={budget.share} of the run's {budget.elapsed:.2g} s leaves room for; it "
            f"is skipped. About every {budget.cost / budget.share:.2g} s there is room for one."
        )
    return False


def has_room(budget: Budget, trainer: pl.Trainer) -> bool:
    """Return whether the budget has room for what takes as long as the last explanation.

    Rank zero decides for all processes. Nothing is counted if there is none.

    Args:
        budget: of the run.
        trainer: of the run.
    """
    if budget.share is None or trainer.state.fn != "fit":
        return True
    return bool(trainer.strategy.broadcast(budget.allows_next(0.0)))


def _finish_queued_work(trainer: pl.Trainer) -> None:
    # What the accelerator still has to do for the validation must not be booked as ours.
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize(trainer.strategy.root_device)


def progress_of(trainer: pl.Trainer) -> float:
    """Return the part of a training run that is done, in [0, 1], by the limits the Trainer has.

    Args:
        trainer: in ``fit``.

    Returns:
        0 if the run has no end that can be foreseen.
    """
    parts = [0.0]
    if trainer.max_steps is not None and trainer.max_steps > 0:
        parts.append(trainer.global_step / trainer.max_steps)
    batches = trainer.num_training_batches
    if trainer.max_epochs is not None and trainer.max_epochs > 0 and 0 < batches < math.inf:
        done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        parts.append(done / (batches * trainer.max_epochs))
    return min(max(parts), 1.0)


def log_overhead(
    budget: Budget, prefix: str, trainer: pl.Trainer, pl_module: pl.LightningModule
) -> None:
    """Log the share of the run's time that explanations have taken so far.

    Callbacks without a name of their own write to one tag, in which their shares add up.

    Args:
        budget: of the run.
        prefix: put before the tag.
        trainer: of the run.
        pl_module: is logged through.
    """
    if trainer.state.fn != "fit":
        return
    # Rank zero's clock for all; Lightning adds up over processes, too.
    overhead = trainer.strategy.broadcast(budget.overhead) / trainer.world_size
    pl_module.log(
        f"{prefix}saliency_overhead",
        overhead,
        on_step=False,
        on_epoch=True,
        batch_size=1,
        add_dataloader_idx=False,
        reduce_fx="sum",
        sync_dist=True,
    )


def report(budget: Budget) -> None:
    """Say at the end of a run how often the budget was kept by leaving an explanation out.

    Args:
        budget: of the run.
    """
    if not budget.skipped:
        return
    if budget.made:
        rank_zero_info(
            f"Explanations took {budget.overhead:.1%} of the run's time; {budget.made} were made "
            f"and {budget.skipped} skipped to keep within max_overhead={budget.share}."
        )
    else:
        rank_zero_warn(
            f"Nothing was explained: max_overhead={budget.share} of the run's "
            f"{budget.elapsed:.2g} s left no room for an explanation of about {budget.cost:.2g} s, "
            f"and {budget.skipped} were skipped. Raise max_overhead, or lower samples or the "
            "method's own settings.",
            category=SaliencyWarning,
        )
