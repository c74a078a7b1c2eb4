"""Log an explanation: its numbers through Lightning, its pictures through the loggers."""

from __future__ import annotations

from collections.abc import Mapping

import lightning.pytorch as pl

from lightning_saliency.callbacks.explain import Explanation
from lightning_saliency.callbacks.pictures import Pictures
from lightning_saliency.callbacks.samples import SampleSet
from lightning_saliency.loggers import log_image, takes_images

__all__ = ["log_numbers", "log_pictures"]


def log_numbers(pl_module: pl.LightningModule, values: Mapping[str, float], count: int) -> None:
    """Log numbers of this validation run, so that EarlyStopping and ModelCheckpoint find them.

    Args:
        pl_module: the module that was explained.
        values: by tag; the same on all processes.
        count: how many samples they are from.
    """
    for tag, value in values.items():
        pl_module.log(
            tag,
            value,
            on_step=False,
            on_epoch=True,
            batch_size=count,
            add_dataloader_idx=False,
            # Equal on all processes already; this tells Lightning so.
            sync_dist=True,
        )


def log_pictures(
    trainer: pl.Trainer,
    prefix: str,
    pictures: Pictures,
    samples: SampleSet,
    explanations: Mapping[str, Explanation],
    step: int,
) -> None:
    """Draw an explanation, and write the pictures to the loggers that take some.

    Args:
        trainer: of the run.
        prefix: stands before all tags.
        pictures: draws.
        samples: that were explained.
        explanations: by series.
        step: at which the pictures stand.
    """
    loggers = [logger for logger in trainer.loggers if takes_images(logger)]
    if not loggers or not trainer.is_global_zero:
        return
    for tag, picture in pictures.draw(samples.images, explanations, trainer.current_epoch):
        # Filmstrips are large, and written again each time.
        palette = tag.startswith("saliency_filmstrip")
        for logger in loggers:
            log_image(logger, prefix + tag, picture, step, palette=palette)
