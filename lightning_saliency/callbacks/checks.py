"""What can be wrong with a callback's settings, found before the first training step."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_saliency.callbacks.explanation.forward import explained_model, overrides
from lightning_saliency.callbacks.measurement.references import check_pinned, followed_checkpoint
from lightning_saliency.callbacks.monitor import Monitor
from lightning_saliency.callbacks.neighbours import callbacks_of, is_fast_dev_run
from lightning_saliency.errors import InputError, SaliencyWarning
from lightning_saliency.loggers import takes_images
from lightning_saliency.network.layers import find_layer

if TYPE_CHECKING:
    from lightning_saliency.callbacks.saliency import SaliencyCallback

__all__ = ["check_model", "check_settings", "check_trainer"]


def check_settings(
    dataloader_idx: int,
    every_n_epochs: int,
    name: str | None,
    noise_every: int | None,
    pinned: object,
    warmup_epochs: object,
) -> None:
    """Check what can be checked without a trainer.

    Args:
        dataloader_idx: must be >= 0.
        every_n_epochs: must be >= 1.
        name: must be None or a text that can stand in a tag.
        noise_every: must be None or >= 1.
        pinned: must be a :data:`~.references.Pinned`.
        warmup_epochs: must be an integer >= 0, not above ``pinned`` if that is an epoch.

    Raises:
        InputError: one of them is not.
    """
    if dataloader_idx < 0:
        raise InputError(f"Expected dataloader_idx to be >= 0, got {dataloader_idx}.")
    if isinstance(every_n_epochs, bool) or not isinstance(every_n_epochs, int):
        raise InputError(f"Expected every_n_epochs to be an integer, got {every_n_epochs!r}.")
    if every_n_epochs < 1:
        raise InputError(
            f"Expected every_n_epochs to be at least 1, got {every_n_epochs}. To explain nothing, "
            "leave the callback out."
        )
    if noise_every is not None and (isinstance(noise_every, bool) or not noise_every >= 1):
        raise InputError(
            f"Expected noise_every to be at least 1, or None for never, got {noise_every!r}."
        )
    check_pinned(pinned, warmup_epochs)
    if name is not None and (not name or name != name.strip("/ ")):
        raise InputError(
            "Expected name to be a text that can stand at the front of a tag, without spaces or "
            f"slashes at its ends, got {name!r}."
        )


def check_trainer(
    callback: SaliencyCallback, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str
) -> None:
    """Check the settings against the run they are used in.

    Args:
        callback: the one that is set up.
        trainer: of the run.
        pl_module: the module that is trained.
        stage: "fit", "validate", "test" or "predict".

    Raises:
        InputError: there is nothing to take samples from, nothing to call, no such reference, or
            another callback writes the same tags.
        LayerError: a layer does not exist.
    """
    _check_tags(callback, trainer)
    if stage == "fit" and callback.samples.known is None and not trainer.enable_validation:
        raise InputError(
            "Expected validation data to take the samples from, but this run has no validation "
            "(no val_dataloader, no validation_step, or limit_val_batches=0). Give the samples "
            "yourself: samples=(images, labels)."
        )
    _check_reference(callback, trainer, stage)
    # What these make is not there yet.
    if not overrides(pl_module, "setup") and not overrides(pl_module, "configure_model"):
        check_model(callback, pl_module)
    if stage == "predict" or is_fast_dev_run(trainer):
        return
    if not any(takes_images(logger) for logger in trainer.loggers):
        have = ", ".join(type(logger).__name__ for logger in trainer.loggers) or "no logger"
        rank_zero_warn(
            f"The run has {have}, which takes no images: the saliency maps will not be seen, only "
            "their numbers. Add lightning.pytorch.loggers.TensorBoardLogger to the Trainer.",
            category=SaliencyWarning,
        )


def check_model(callback: SaliencyCallback, pl_module: pl.LightningModule) -> None:
    """Check that the module has something to call, and the layers that the methods name.

    Args:
        callback: whose methods they are.
        pl_module: with all its layers.

    Raises:
        InputError: there is nothing to call.
        LayerError: a layer does not exist.
    """
    model = explained_model(pl_module, callback.monitor.forward)
    for entry in callback.monitor.methods:
        for setting in fields(entry.method):
            layer = getattr(entry.method, setting.name)
            if setting.name.endswith("_layer") and isinstance(layer, str) and layer:
                find_layer(model, layer)


def _check_reference(callback: SaliencyCallback, trainer: pl.Trainer, stage: str) -> None:
    if stage != "fit" or is_fast_dev_run(trainer):
        return
    pinned, start = callback.pinned, callback.warmup_epochs
    if pinned == "best" and followed_checkpoint(trainer) is None:
        raise InputError(
            "Expected a ModelCheckpoint that monitors something, for pinned='best' to follow, but "
            "the run has none. Add ModelCheckpoint(monitor='val_loss') to the Trainer's callbacks, "
            "or take pinned='first'."
        )
    setting = "warmup_epochs"
    if isinstance(pinned, int):
        setting, start = "pinned", pinned
    # None and -1 stand for no limit.
    last = trainer.max_epochs if trainer.max_epochs is not None else -1
    if start > 0 and 0 <= last <= start:
        raise InputError(
            f"Expected {setting} to be an epoch of this run, 0 to {last - 1} with "
            f"max_epochs={last}, got {start}: nothing would ever be pinned."
        )


def _check_tags(callback: SaliencyCallback, trainer: pl.Trainer) -> None:
    for other in callbacks_of(trainer):
        monitor = getattr(other, "monitor", None)
        if other is callback or not isinstance(monitor, Monitor):
            continue
        same = callback.monitor.tags & monitor.tags
        if same:
            raise InputError(
                f"Expected each saliency callback to write tags of its own, but two of them write "
                f"'{min(same)}'. Give one of them a name, for instance "
                f"{type(callback).__name__}(..., name='second')."
            )
