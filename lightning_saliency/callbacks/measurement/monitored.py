"""Numbers that other callbacks wait for, when the explanation that would give them has failed."""

from __future__ import annotations

import lightning.pytorch as pl
import torch

from lightning_saliency.callbacks.neighbours import callbacks_of
from lightning_saliency.metrics.drift import NO_DRIFT

__all__ = ["stand_in"]


def stand_in(trainer: pl.Trainer, families: set[str]) -> None:
    """Give something to those who monitor a number of ours that has never been measured.

    EarlyStopping, ModelCheckpoint and learning rate schedulers end the run if what they monitor is
    not there, so a first explanation that fails would end it too. They get the value of a first
    explanation, which has not moved, or 0 where there is none. It is not logged.

    Args:
        trainer: has the callbacks and the schedulers.
        families: the beginnings of the tags of which nothing was logged, each up to the sample or
            the measure.
    """
    waiting = [*callbacks_of(trainer), *getattr(trainer, "lr_scheduler_configs", ())]
    for tag in [getattr(one, "monitor", None) for one in waiting]:
        if isinstance(tag, str) and any(_belongs(tag, family) for family in families):
            value = NO_DRIFT.get(tag.rpartition("/")[2], 0.0)
            trainer.callback_metrics.setdefault(tag, torch.tensor(value))


def _belongs(tag: str, family: str) -> bool:
    """Whether ``saliency_drift/gradient/...`` is of the family ``saliency/gradient``."""
    prefix, _, series = family.rpartition("saliency/")
    return tag.startswith(f"{prefix}saliency_") and f"/{series}/" in tag
