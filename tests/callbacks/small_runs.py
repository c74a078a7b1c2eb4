"""Small Lightning runs that the tests of the callbacks are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from quiet import QUIET as QUIET
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_models import CLASSES, VGGLike
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

SIDE = 16


class TinyModule(pl.LightningModule):
    """A classifier as a user writes it; counts the training steps."""

    def __init__(self) -> None:
        super().__init__()
        self.net = VGGLike()
        self.steps = 0

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps += 1
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def dataset(count: int = 16, seed: int = 0) -> TensorDataset:
    """Images (3, 16, 16), labels that follow their order: 0, 1, 2, 3, 4, 0, ..."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return TensorDataset(images, torch.arange(count) % CLASSES)


def train_loader(count: int = 16) -> DataLoader[Any]:
    return DataLoader(dataset(count, seed=1), batch_size=4, shuffle=True)


def val_loader(count: int = 12, batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(dataset(count, seed=2), batch_size=batch_size)


def make_trainer(folder: Path, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    """A trainer of two epochs of four batches, with a TensorBoard logger in ``folder``."""
    chosen: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
        "logger": TensorBoardLogger(folder, name="run", version=""),
        "default_root_dir": folder,
        **settings,
    }
    return pl.Trainer(callbacks=list(callbacks), **chosen)


def fit(
    folder: Path, *callbacks: pl.Callback, ckpt_path: Path | None = None, **settings: Any
) -> pl.Trainer:
    """Train a :class:`TinyModule` from fixed seeds, and return the trainer."""
    torch.manual_seed(0)
    trainer = make_trainer(folder, *callbacks, **settings)
    trainer.fit(TinyModule(), train_loader(), val_loader(), ckpt_path=ckpt_path)
    return trainer


def events(folder: Path) -> EventAccumulator:
    """What TensorBoard's own reader finds in the run's folder."""
    everything = {"images": 0, "scalars": 0, "histograms": 0, "tensors": 0}
    return EventAccumulator(str(folder / "run"), size_guidance=everything).Reload()
