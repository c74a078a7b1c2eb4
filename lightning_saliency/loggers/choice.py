"""The adapter of each logger: the only place that distinguishes the loggers.

A logger is recognized by what it and its experiment can do, not by its class: ``lightning.pytorch``
and ``pytorch_lightning`` are two packages with the same loggers, and ``isinstance`` is False across
them.
"""

import lightning.pytorch as pl

from lightning_saliency.loggers.adapter import (
    CSVAdapter,
    LogAdapter,
    NullAdapter,
    answers_to_any_name,
    has_attribute,
    has_method,
)
from lightning_saliency.loggers.comet import CometAdapter
from lightning_saliency.loggers.mlflow import MLflowAdapter
from lightning_saliency.loggers.tensorboard import TensorBoardAdapter
from lightning_saliency.loggers.wandb import WandbAdapter


def adapter_for(logger: object) -> LogAdapter:
    """Return the adapter that writes to a logger.

    Args:
        logger: any logger of Lightning, or None.
    """
    if logger is None or answers_to_any_name(logger):
        return NullAdapter(logger)
    # Before the experiment is accessed, which would start a run.
    if has_method(logger, "log_image") or has_method(logger, "log_text"):
        return WandbAdapter(logger)
    experiment = getattr(logger, "experiment", None)
    if answers_to_any_name(experiment):
        return NullAdapter(logger)
    if _has_any(experiment, "add_image", "add_text", "add_histogram"):
        return TensorBoardAdapter(logger)
    if has_method(experiment, "log_image") and has_attribute(logger, "run_id"):
        return MLflowAdapter(logger)
    if _has_any(experiment, "log_image", "log_histogram_3d"):
        return CometAdapter(logger)
    return CSVAdapter(logger)


def adapters_of(trainer: pl.Trainer) -> list[LogAdapter]:
    """Return the adapters of a run's loggers.

    Args:
        trainer: of the run.
    """
    return [adapter_for(logger) for logger in trainer.loggers]


def image_adapters(trainer: pl.Trainer) -> list[LogAdapter]:
    """Return the adapters that take images; of the others it is reported once that they do not.

    Args:
        trainer: of the run.
    """
    return [each for each in adapters_of(trainer) if each.takes_images or each.lacks("images")]


def _has_any(owner: object, *names: str) -> bool:
    return any(has_method(owner, name) for name in names)
