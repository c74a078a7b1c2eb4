"""Explain, and let no failure through to the training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning.pytorch as pl

from lightning_saliency.callbacks.explanation.averaging import averaged_weights
from lightning_saliency.callbacks.explanation.explained import Explained, tell
from lightning_saliency.callbacks.explanation.faults import AbandonedError, Fault, Faults, describe
from lightning_saliency.callbacks.explanation.noise import measure_noise_if_due
from lightning_saliency.callbacks.measurement.monitored import stand_in
from lightning_saliency.callbacks.monitor import EVERYTHING, NUMBERS, Monitor, Tried
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.samples.shares import attempt
from lightning_saliency.callbacks.schedule.allowance import is_allowed, log_overhead
from lightning_saliency.callbacks.schedule.rhythm import is_due, validation_step

if TYPE_CHECKING:
    from lightning_saliency.callbacks.saliency import SaliencyCallback

__all__ = ["explain_if_due", "explain_unvalidated"]

# What is kept of the explanations, and callbacks that follow them.
_HISTORY, _LISTENERS = "history", "listeners"


def explain_if_due(
    callback: SaliencyCallback, trainer: pl.Trainer, pl_module: pl.LightningModule, step: int
) -> None:
    """Explain, if there are samples, the time has come, and the budget allows it.

    Args:
        callback: has the samples, the methods and the budget.
        trainer: of the run.
        pl_module: the module that is explained.
        step: at which the pictures are logged.

    Raises:
        Exception: what went wrong, if it is to be raised.
    """
    samples, budget = callback.samples.known, callback.budget
    due = is_due(callback.last_epoch, callback.every_n_epochs, trainer)
    if samples is None or not due or _gave_up(callback.faults, callback.monitor):
        return
    if is_allowed(budget, callback.monitor, samples, trainer, pl_module):
        callback.last_epoch = trainer.current_epoch
        explained = _explain(callback, samples, trainer, pl_module, step)
        if explained is not None:
            measure_noise_if_due(callback, samples, trainer, pl_module)
            callback.trust.after(explained, callback, trainer, pl_module)
            _hand_on(callback, explained, trainer, pl_module)
    log_overhead(budget, callback.monitor.prefix, trainer, pl_module)


def explain_unvalidated(
    callback: SaliencyCallback, trainer: pl.Trainer, pl_module: pl.LightningModule
) -> None:
    """Explain at the end of an epoch that has not been validated, as :func:`explain_if_due`.

    Args:
        callback: has the samples, the methods and the budget.
        trainer: of the run.
        pl_module: the module that is explained.
    """
    with averaged_weights(trainer, pl_module):
        # Lightning logs the metrics of an epoch's end one step back, at its last batch.
        explain_if_due(callback, trainer, pl_module, validation_step(trainer) - 1)


def _explain(
    callback: SaliencyCallback,
    samples: SampleSet,
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    step: int,
) -> Explained | None:
    """Explain with what has not failed too often, and report what fails."""
    monitor, faults = callback.monitor, callback.faults
    skip = [part for part in monitor.parts if faults.gave_up(part)]
    tried: Tried = {}
    explained: Explained | None = None
    try:
        with callback.budget.explaining():
            tried, explained = monitor.explain(samples, trainer, pl_module, step, skip)
            if any(tried.values()):
                # Of what a whole explanation takes, this one says nothing.
                raise AbandonedError
    except AbandonedError:
        pass
    except Exception as error:
        tried = {EVERYTHING: Fault(describe(error), error)}
    faults.settle(tried, trainer.current_epoch)
    stand_in(trainer, _not_measured(monitor, tried))
    return explained


def _hand_on(
    callback: SaliencyCallback,
    explained: Explained,
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
) -> None:
    """Give what was found to those who keep it and those who follow it."""
    followers = {
        _HISTORY: lambda: callback.history.add(trainer, explained, callback.samples.indices),
        _LISTENERS: lambda: tell(trainer, pl_module, callback, explained),
    }
    for part, follow in followers.items():
        if not callback.faults.gave_up(part):
            with callback.budget.spending():
                result = attempt(follow, trainer)
            fault = result if isinstance(result, Fault) else None
            callback.faults.settle({part: fault}, trainer.current_epoch)


def _gave_up(faults: Faults, monitor: Monitor) -> bool:
    return faults.gave_up(EVERYTHING) or all(map(faults.gave_up, monitor.series))


def _not_measured(monitor: Monitor, tried: Tried) -> set[str]:
    """Return the beginnings of the tags, as :attr:`Monitor.tags`, of which nothing was logged."""
    failed = {part for part, fault in tried.items() if fault is not None}
    everything = not failed.isdisjoint({EVERYTHING, NUMBERS})
    lost = monitor.series if everything else failed.intersection(monitor.series)
    return {f"{monitor.prefix}saliency/{series}" for series in lost}
