"""The folder in which a run's logger keeps its files."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl

__all__ = ["run_folder"]


def run_folder(trainer: pl.Trainer) -> Path:
    """Return the folder of the run, the same on all processes; must be called on all of them.

    That of TensorBoard's and the CSV logger is the folder with their files; other loggers and none
    get one as Lightning's ModelCheckpoint would choose.

    Args:
        trainer: of the run.
    """
    folder = Path(trainer.default_root_dir)
    if trainer.loggers:
        logger = trainer.loggers[0]
        own = getattr(logger, "log_dir", None)
        if isinstance(own, (str, Path)):
            folder = Path(own)
        else:
            version = logger.version
            name = version if isinstance(version, str) else f"version_{version}"
            folder = Path(logger.save_dir or folder) / str(logger.name) / name
    # Versions are counted on each process, and may differ.
    return Path(trainer.strategy.broadcast(str(folder)))
