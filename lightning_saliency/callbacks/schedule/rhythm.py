"""When explanations are due, and at which step they are logged."""

from __future__ import annotations

import lightning.pytorch as pl

__all__ = ["is_due", "validation_step"]


def is_due(last_epoch: int | None, every_n_epochs: int, trainer: pl.Trainer) -> bool:
    """Return whether the current epoch is one to explain.

    Args:
        last_epoch: the last epoch that was explained, None if none was.
        every_n_epochs: explain in the first epoch that can be, and then every so many.
        trainer: of the run; outside of ``fit`` everything is due.
    """
    if last_epoch is None or trainer.state.fn != "fit":
        return True
    # Counting from the last explained epoch, and not in multiples, works together with every
    # rhythm of validation; several runs within one epoch are all explained.
    since = trainer.current_epoch - last_epoch
    return since == 0 or since >= every_n_epochs


def validation_step(trainer: pl.Trainer) -> int:
    """Return the step at which Lightning logs the metrics of a validation run.

    Args:
        trainer: of the run. Its ``global_step`` would count every optimizer.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped
