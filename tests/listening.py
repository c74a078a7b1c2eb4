"""Runs that are watched for what the alarm says, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from lightning_saliency import DriftAlarm


class Listening(DriftAlarm):
    """The alarm as it is by default, which also notes what it has said, and the evidence.

    Attributes:
        sounded: by epoch, the tags that were out of the usual.
        judged: the epochs in which the evidence could sound.
        place: for each explanation, the places' shares of the evidence, means over the samples.
        kind: likewise, of the kinds of content.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sounded: dict[int, list[str]] = {}
        self.judged: list[int] = []
        self.place: list[Tensor] = []
        self.kind: list[Tensor] = []

    def on_explained(self, trainer: Any, pl_module: Any, source: Any, round: Any) -> None:
        super().on_explained(trainer, pl_module, source, round)
        if self.sounding:
            self.sounded[round.epoch] = list(self.sounding)
        shares = round.evidence["label"].now
        self.place.append(shares.place.nanmean(0))
        self.kind.append(shares.kind.nanmean(0))

    def _judge(self, tag: str, round: Any, *others: Any) -> Any:
        finding = super()._judge(tag, round, *others)
        if tag.endswith("/place_gain") and math.isfinite(finding.score):
            self.judged.append(round.epoch)
        return finding


def trainer_of_new_data(epochs: int, callbacks: Sequence[pl.Callback], folder: str) -> pl.Trainer:
    """Return a Trainer that asks for new training data in each epoch, and writes nothing.

    Args:
        epochs: how many.
        callbacks: of the run.
        folder: what Lightning takes for its own.
    """
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[*callbacks],
        reload_dataloaders_every_n_epochs=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
