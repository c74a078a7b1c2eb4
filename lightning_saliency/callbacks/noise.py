"""How far the maps of a method with chance in it move on unchanged weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from lightning_saliency.callbacks.allowance import has_room
from lightning_saliency.callbacks.explain import NamedMethod

if TYPE_CHECKING:
    from lightning_saliency.callbacks.saliency import SaliencyCallback
    from lightning_saliency.callbacks.samples import SampleSet

__all__ = ["measure_noise_if_due", "reseeded"]


def reseeded(methods: Sequence[NamedMethod]) -> list[NamedMethod]:
    """Return the methods that have a seed, with another one.

    Args:
        methods: of a callback.
    """
    found = []
    for entry in methods:
        method: Any = entry.method
        if hasattr(method, "seed"):
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
    if every is None or (made - 1) % every != 0 or not callback.monitor.has_noise:
        return
    if has_room(callback.budget, trainer):
        with callback.faults.reported(trainer.current_epoch), callback.budget.spending():
            callback.monitor.measure_noise(samples, trainer, pl_module)
