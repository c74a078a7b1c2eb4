"""What Lightning's Trainer has, and does not declare: one place that says of which type it is."""

from __future__ import annotations

from typing import Any, cast

import lightning.pytorch as pl

__all__ = ["callbacks_of", "is_fast_dev_run", "put_callbacks"]


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """Return the trainer's callbacks, in their order; the list itself, not a copy.

    Args:
        trainer: sets it in a helper of its own, unseen by type checkers.
    """
    return cast("list[pl.Callback]", cast("Any", trainer).callbacks)


def put_callbacks(trainer: pl.Trainer, order: list[pl.Callback]) -> None:
    """Give the trainer another list of callbacks, also while it is going through the present one.

    Args:
        trainer: goes on with its present list where it is in the middle of it.
        order: all its callbacks.
    """
    cast("Any", trainer).callbacks = order


def is_fast_dev_run(trainer: pl.Trainer) -> bool:
    """Return whether the run only tries every step of the code once.

    Args:
        trainer: sets it in a helper of its own, unseen by type checkers.
    """
    return bool(cast("Any", trainer).fast_dev_run)
