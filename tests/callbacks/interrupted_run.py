"""A run that ends in one way or another, as a program: interrupted_run.py FOLDER NAME HOW.

HOW is "whole" (six epochs), "stop" (three), "SIGTERM" or "SIGKILL" (in the fourth), or "resume".
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from small_runs import TinyModule, dataset, make_trainer
from torch.utils.data import DataLoader

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import RISE, ExtremalPerturbation, GradCAM, Gradient

EPOCHS, AFTER = 6, 3


class Interrupted(pl.Callback):
    """Sends its own process a signal when the epoch after the last whole one has begun."""

    def __init__(self, how: str) -> None:
        self.number = getattr(signal, how, None)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        # A kill comes between the epochs, a request to end in the middle of one.
        due = trainer.fit_loop.epoch_loop.batch_idx >= (self.number == signal.SIGTERM)
        if self.number and trainer.current_epoch == AFTER and due:
            os.kill(os.getpid(), self.number)


def main(folder: Path, name: str, how: str) -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    module = TinyModule()
    # Lightning does not save the random streams, so a resumed run would have other dropout.
    module.net.hidden[1].p = module.net.hidden[4].p = 0.0
    methods = [
        Gradient(),
        GradCAM(),
        RISE(num_masks=128),
        ExtremalPerturbation(max_iter=6, areas=(0.1, 0.3)),
    ]
    saliency = SaliencyCallback(
        methods,
        samples=4,
        pinned="best",
        noise_every=2,
        regions=["border"],
        on_error="raise",
        log="full",
    )
    saving = ModelCheckpoint(folder / "saved", monitor="val_loss", save_last=True)
    trainer = make_trainer(
        folder,
        saliency,
        saving,
        Interrupted(how),
        max_epochs=AFTER if how == "stop" else EPOCHS,
        enable_checkpointing=True,
        logger=TensorBoardLogger(folder, name=name, version=""),
    )
    loaders = [DataLoader(dataset(16, seed=seed), batch_size=4) for seed in (1, 2)]
    checkpoint = folder / "saved" / "last.ckpt" if how == "resume" else None
    trainer.fit(module, *loaders, ckpt_path=checkpoint)
    torch.save(saliency.state_dict()["monitor"]["drift"], folder / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
