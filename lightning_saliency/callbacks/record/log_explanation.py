"""Log an explanation: its numbers through Lightning, its pictures through the loggers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lightning_saliency.callbacks.explanation.explain import Explanation
from lightning_saliency.callbacks.measurement.measure import OneByOne
from lightning_saliency.callbacks.record.pictures import Pictures
from lightning_saliency.callbacks.record.sample_table import log_samples
from lightning_saliency.callbacks.samples.sample_set import SampleSet
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
    one_by_one: OneByOne,
    step: int,
) -> None:
    """Draw and log pictures, and tables of the samples; on rank zero alone.

    Args:
        trainer: of the run.
        prefix: stands before all tags.
        pictures: draws.
        samples: that were explained.
        explanations: by series.
        one_by_one: what was measured of each sample, by series.
        step: at which they are logged.

    Raises:
        Exception: of the first thing that failed; the others are written all the same.
    """
    if not trainer.is_global_zero:
        return
    try:
        for series, (moved, located) in one_by_one.items():
            tag, named = f"{prefix}saliency_drift_samples/{series}", pictures.class_name
            log_samples(trainer, tag, explanations[series], moved, located, named, step)
    finally:
        loggers = [logger for logger in trainer.loggers if takes_images(logger)]
        if loggers:
            drawn = pictures.draw(samples.images, explanations, trainer.current_epoch)
            _to_all(((prefix + tag, picture) for tag, picture in drawn), loggers, step)


def _to_all(pictures: Iterable[tuple[str, Tensor]], loggers: list[Any], step: int) -> None:
    working, failures = list(loggers), list[Exception]()
    # All are drawn, also when every logger has failed: the filmstrips remember them.
    for tag, picture in pictures:
        # Filmstrips are large, and written again each time.
        palette = "saliency_filmstrip/" in tag
        for logger in list(working):
            try:
                log_image(logger, tag, picture, step, palette=palette)
            except Exception as error:
                failures.append(error)
                working.remove(logger)
    if failures:
        raise failures[0]
