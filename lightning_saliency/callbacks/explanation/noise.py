"""How far the maps of a method with chance in it move on unchanged weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from lightning_saliency.callbacks.explanation.explain import NamedMethod
from lightning_saliency.callbacks.explanation.faults import Fault
from lightning_saliency.callbacks.measurement.value_tags import value_tag
from lightning_saliency.callbacks.record.log_explanation import log_numbers
from lightning_saliency.callbacks.samples.shares import attempt
from lightning_saliency.callbacks.schedule.allowance import has_room

if TYPE_CHECKING:
    from lightning_saliency.callbacks.monitor import Monitor
    from lightning_saliency.callbacks.saliency import SaliencyCallback
    from lightning_saliency.callbacks.samples.sample_set import SampleSet

__all__ = ["measure_noise_if_due", "reseeded"]


def reseeded(methods: Sequence[NamedMethod]) -> list[NamedMethod]:
    """Return the methods that have a seed, with another one.

    Args:
        methods: of a callback.
    """
    found = []
    for entry in methods:
        method: Any = entry.method
        if any(field.name == "seed" for field in fields(method)):
            found.append(NamedMethod(entry.name, replace(method, seed=method.seed + 1)))
    return found


def measure_noise_if_due(
    callback: SaliencyCallback,
    samples: SampleSet,
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
) -> None:
    """Measure noise after the first explanation and after every so many, if the budget has room.

    Args:
        callback: has just explained the samples.
        samples: that were explained.
        trainer: of the run.
        pl_module: the module that was explained.
    """
    every, made = callback.noise_every, callback.budget.made
    if every is None or (made - 1) % every != 0 or not reseeded(callback.monitor.methods):
        return
    if has_room(callback.budget, trainer) and not callback.faults.gave_up("noise"):
        with callback.budget.spending():
            fault = _measure_noise(callback.monitor, samples, trainer, pl_module)
        callback.faults.settle({"noise": fault}, trainer.current_epoch)


def _measure_noise(
    monitor: Monitor, samples: SampleSet, trainer: pl.Trainer, pl_module: pl.LightningModule
) -> Fault | None:
    """Explain once more with another seed, and log how far the maps are from the newest ones."""
    tried: dict[str, Fault | None] = {}
    methods = reseeded(monitor.methods)
    again = monitor.explanations(samples, trainer, pl_module, (), tried, methods)
    for series, explanation in again.items():
        noise = attempt(partial(monitor.drift[series].measure_noise, explanation), trainer)
        if isinstance(noise, Fault):
            return noise
        noise = trainer.strategy.broadcast(noise)
        tags = {monitor.prefix + value_tag(series, what): v for what, v in noise.items()}
        log_numbers(pl_module, tags, len(samples))
    return next((fault for fault in tried.values() if fault is not None), None)
