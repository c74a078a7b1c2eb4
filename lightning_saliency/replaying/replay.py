"""Replay a run from its checkpoints, as if callbacks had been in it from the start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from lightning_saliency.errors import InputError, SaliencyWarning
from lightning_saliency.replaying.engine import Engine, LoadError
from lightning_saliency.replaying.files import (
    Checkpoint,
    PathSpec,
    Skipped,
    make_module,
    misfit,
    read_checkpoints,
)
from lightning_saliency.replaying.stopped import ReplayState


@dataclass(frozen=True)
class Replay:
    """What a replay has done.

    Attributes:
        explained: the checkpoints that were explained now, in the order of the run.
        before: how many of the first ones a stopped replay had done already, or skipped.
        skipped: those that could not be used, each with the reason.
        folder: of the replay.
        module: with the weights of the last checkpoint.
    """

    explained: tuple[Checkpoint, ...]
    before: int
    skipped: tuple[Skipped, ...]
    folder: Path
    module: pl.LightningModule

    def __str__(self) -> str:
        """Return a few lines."""
        lines = [f"{len(self.explained)} checkpoints explained; see {self.folder}."]
        if self.before:
            lines.append(f"{self.before} more were done before.")
        if self.skipped:
            lines.append(f"{len(self.skipped)} skipped:")
            lines += [f"  {each}" for each in self.skipped]
        return "\n".join(lines)


def replay(
    module: pl.LightningModule | type[pl.LightningModule],
    checkpoints: PathSpec | Sequence[PathSpec],
    callbacks: pl.Callback | Sequence[pl.Callback],
    data: Any = None,
    output: PathSpec = "replay",
    weights_only: bool = True,
    validate: bool = False,
    **trainer_settings: Any,
) -> Replay:
    """Explain the checkpoints of a run that is over, as callbacks in it would have done.

    The saliency callbacks find the same maps, log the same drift at the same steps and epochs, and
    draw the same filmstrip, as far as there are checkpoints; a
    :class:`~lightning_saliency.DriftAlarm` among them judges as in the run, and with
    ``save_maps=True`` the maps are kept. Checkpoints hold the weights that are validated: with
    Lightning's weight averaging the averages.

    A checkpoint that is missing or broken is skipped and listed. What is done is kept in
    ``output`` after each checkpoint, so that the same call goes on after a stop.

    Each of several processes has its own BatchNorm statistics, of which a checkpoint holds those
    of the first: maps of such a run are bit-equal if it synchronized them.

    Args:
        module: takes the weights; or its class, which is then made with the hyperparameters in the
            first checkpoint.
        checkpoints: a folder, at any depth of which they are; or a list of files, or of folders
            of sharded ones.
        callbacks: the saliency callbacks, as they would have stood in the run, and alarms.
        data: a datamodule, or validation loaders; None for those of the module, or if the
            callbacks are given their samples as tensors.
        output: folder of the replay, for TensorBoard's file and the maps.
        weights_only: refuse checkpoints with more than tensors and plain values, because loading
            them could run any program.
        validate: also make the module's own validation of each checkpoint, on all data, and log it.
        trainer_settings: passed on to ``Trainer``, such as ``accelerator``, ``devices``,
            ``strategy`` or ``logger``.

    Returns:
        What was done; what was found is in the callbacks and in ``output``.

    Raises:
        InputError: before any work, if there are no checkpoints, none fits the module,
            hyperparameters or data are missing, a checkpoint could run a program, or ``output`` is
            of another replay.
    """
    found, skipped = read_checkpoints(checkpoints, weights_only)
    made = module_of(module, found[0])
    found, unfit = fitting(found, made)
    skipped += unfit
    several = [callbacks] if isinstance(callbacks, pl.Callback) else list(callbacks)
    folder = Path(output)
    trainer = make_trainer(several, folder, trainer_settings)
    engine = Engine(made, trainer, data, weights_only, validate)
    state = ReplayState(folder, several)
    before = state.load(found)
    explained: list[Checkpoint] = []
    with engine.opened():
        for number, checkpoint in enumerate(found[before:], before + 1):
            rank_zero_info(
                f"Replay: checkpoint {number} of {len(found)}, epoch {checkpoint.epoch}, "
                f"{checkpoint.path.name}"
            )
            try:
                engine.explain(checkpoint, is_last=number == len(found))
            except LoadError as error:
                skipped.append(Skipped(checkpoint.path, f"it cannot be loaded: {error.__cause__}"))
                continue
            explained.append(checkpoint)
            if trainer.is_global_zero:
                state.save(found[:number])
        engine.finish()
    if skipped:
        rank_zero_warn(
            f"{len(skipped)} checkpoints were skipped: {'; '.join(map(str, skipped))}",
            category=SaliencyWarning,
        )
    return Replay(tuple(explained), before, tuple(skipped), folder, made)


def module_of(
    module: pl.LightningModule | type[pl.LightningModule], checkpoint: Checkpoint
) -> pl.LightningModule:
    """Return the module, made with a checkpoint's hyperparameters if only its class is given.

    Args:
        module: or its class.
        checkpoint: that was saved by one of them.

    Raises:
        InputError: it is no module, or cannot be made.
    """
    if isinstance(module, type) and issubclass(module, pl.LightningModule):
        made: pl.LightningModule = make_module(module, checkpoint)
        return made
    if not isinstance(module, pl.LightningModule):
        raise InputError(
            "Expected a LightningModule, or a class of them, to take the weights, got "
            f"{type(module).__name__}."
        )
    return module


def fitting(
    checkpoints: Sequence[Checkpoint], module: pl.LightningModule
) -> tuple[list[Checkpoint], list[Skipped]]:
    """Return the checkpoints whose weights the module can take, and the others.

    A module that makes its layers later, or changes what it loads, is asked only when it loads.

    Args:
        checkpoints: of any modules.
        module: would take the weights.

    Raises:
        InputError: there are none.
    """
    changes = ("configure_model", "setup", "on_load_checkpoint", "load_state_dict")
    if not module.strict_loading or any(_overrides(module, name) for name in changes):
        return list(checkpoints), []
    fit: list[Checkpoint] = []
    unfit: list[Skipped] = []
    for each in checkpoints:
        reason = None if each.shapes is None else misfit(each.shapes, module)
        if reason is None:
            fit.append(each)
        else:
            unfit.append(Skipped(each.path, reason))
    if not fit:
        raise InputError(
            f"Expected checkpoints of {type(module).__name__}, but of {unfit[0].path} "
            f"{unfit[0].reason}."
        )
    return fit, unfit


def make_trainer(
    callbacks: Sequence[pl.Callback], folder: Path, settings: Mapping[str, Any]
) -> pl.Trainer:
    """Return the trainer of a replay.

    Args:
        callbacks: of the replay.
        folder: for the logger, unless the settings have one.
        settings: of the user's, for ``Trainer``.

    Raises:
        InputError: one of them cannot be used here.
    """
    refused = settings.keys() & {"callbacks", "inference_mode", "fast_dev_run", "barebones"}
    if refused:
        raise InputError(
            f"Expected settings of the Trainer other than {', '.join(sorted(refused))}, which a "
            "replay makes itself."
        )
    chosen = {
        "logger": None,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        **settings,
    }
    if chosen["logger"] is None:
        chosen["logger"] = TensorBoardLogger(folder, name="", version="")
    return pl.Trainer(
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_checkpointing=False,
        inference_mode=False,
        **chosen,
    )


def _overrides(module: pl.LightningModule, name: str) -> bool:
    parent: type = pl.LightningModule if hasattr(pl.LightningModule, name) else object
    return bool(is_overridden(name, module, parent=parent))
