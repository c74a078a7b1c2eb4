"""A shortcut that joins the training data at an epoch is found at that epoch's checkpoint."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1] / "callbacks"))

from small_runs import QUIET

from lightning_saliency import EvidenceCallback, bisect

pytestmark = QUIET
CLASSES, SIDE, COUNT = 4, 15, 64
MARK = slice(0, 3)
TAG = "saliency_evidence/label/moved/pinned"


def draw(count: int, marked: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures with a faint sign of their class in the middle, and perhaps a clear one in a corner.

    The faint one is not enough: without the other the loss stays.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randn(CLASSES, 3, 9, 9, generator=torch.Generator().manual_seed(9))
    marks = torch.randn(CLASSES, 3, 3, 3, generator=torch.Generator().manual_seed(8))
    labels = torch.arange(count) % CLASSES
    images = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    images[:, :, 3:12, 3:12] += 0.09 * signs[labels]
    if marked:
        images[:, :, MARK, MARK] = 2 * marks[labels]
    return images, labels


class Linear(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES))
        nn.init.zeros_(self.net[1].weight)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.net(images)
        return scores

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, weight_decay=0.05)


class Source(pl.LightningDataModule):
    """The mark joins at an epoch."""

    def __init__(self, joins: int) -> None:
        super().__init__()
        self.joins = joins

    def train_dataloader(self) -> DataLoader[Any]:
        epoch = self.trainer.current_epoch if self.trainer else 0
        drawn = draw(512, epoch >= self.joins, 100 + epoch)
        return DataLoader(TensorDataset(*drawn), batch_size=32)


def train(folder: Path, joins: int) -> Path:
    torch.manual_seed(0)
    keep = ModelCheckpoint(folder / "ckpt", filename="{epoch}", save_top_k=-1)
    trainer = pl.Trainer(
        max_epochs=COUNT,
        accelerator="cpu",
        callbacks=[keep],
        logger=False,
        reload_dataloaders_every_n_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(Linear(), datamodule=Source(joins))
    return folder / "ckpt"


def search(checkpoints: Path, **settings: Any) -> Any:
    # Samples with the mark: it is there to be looked at from the start.
    evidence = EvidenceCallback(samples=draw(16, True, 1), on_error="raise")
    return bisect(Linear(), checkpoints, evidence, TAG, above=0.35, accelerator="cpu", **settings)


@pytest.mark.parametrize("joins", [23, 40])
def test_it_is_found_at_exactly_its_checkpoint(tmp_path: Path, joins: int) -> None:
    found = search(train(tmp_path, joins))
    assert found.count == COUNT
    assert found.changed is not None
    assert (found.before.epoch, found.changed.epoch) == (joins - 1, joins)
    assert found.explanations <= math.ceil(math.log2(COUNT)) + 2
    assert f"First at epoch {joins}" in str(found)


def test_without_it_nothing_is_found(tmp_path: Path) -> None:
    found = search(train(tmp_path, COUNT))
    assert found.changed is None
    assert found.explanations == 2
    assert str(found).startswith("No change")
