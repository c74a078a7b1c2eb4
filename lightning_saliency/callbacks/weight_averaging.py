"""Explain the weights that are validated, where they are averages of those that are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import lightning.pytorch as pl

__all__ = ["averaged_weights", "move_before_averaging"]


def move_before_averaging(callback: pl.Callback, trainer: pl.Trainer) -> None:
    """Put a callback in front of Lightning's weight averaging in the trainer's list.

    Weight averaging puts the averages into the module when a validation run begins, and takes them
    out in the hook in which the samples are explained. Who stands before it still finds them.

    Args:
        callback: explains at the end of a validation run.
        trainer: has it in its list.
    """
    # The trainer sets its callbacks in a helper of its own, unseen by type checkers.
    owner = cast("Any", trainer)
    order: list[pl.Callback] = list(owner.callbacks)
    first = next((place for place, other in enumerate(order) if _averages(other)), len(order))
    if callback in order and first < order.index(callback):
        order.remove(callback)
        order.insert(first, callback)
        # Another list, because the trainer is just going through this one.
        owner.callbacks = order


@contextmanager
def averaged_weights(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Have the averages in the module, as in a validation run, at the end of an epoch without one.

    Args:
        trainer: of the run.
        pl_module: the module that is explained.
    """
    active: list[Any] = [
        other
        for other in cast("Any", trainer).callbacks
        if _averages(other) and getattr(other, "_average_model", None) is not None
    ]
    for averaging in active:
        averaging._swap_models(pl_module)
    try:
        yield
    finally:
        for averaging in reversed(active):
            averaging._swap_models(pl_module)


def _averages(callback: object) -> bool:
    # By name: Lightning has the class in two packages, and not in its older versions.
    return any(kind.__name__ == "WeightAveraging" for kind in type(callback).__mro__)
