"""A training run that is easily disturbed, and a record of it that is compared to the last bit.

The module has dropout, BatchNorm and a frozen part whose BatchNorm is in eval mode; the data are
shuffled and augmented from the random streams of torch, NumPy and Python; gradients are
accumulated.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from every_attribute import everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from traces import bits, differences, global_flags, module_state, random_streams
from typing_extensions import override

SIZE = (12, 12)
CLASSES = 4
Record = list[dict[str, object]]


class AugmentedImages(Dataset[tuple[Tensor, int]]):
    """Noise with a bright patch whose place is the class, augmented from all random streams."""

    def __init__(self, count: int, augment: bool) -> None:
        generator = torch.Generator().manual_seed(count)
        self.images = torch.rand(count, 3, *SIZE, generator=generator)
        self.labels = [index % CLASSES for index in range(count)]
        for image, label in zip(self.images, self.labels, strict=True):
            image[:, 6 * (label // 2) :, 6 * (label % 2) :][:, :6, :6] += 1
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index].clone()
        if self.augment:
            image = image + 0.1 * torch.randn(image.shape) + float(np.random.normal(0, 0.1))
            if random.random() < 0.5:
                image = image.flip(0)
        return image, self.labels[index]


class Classifier(pl.LightningModule):
    """A user's module, with a frozen stem.

    Attributes:
        breaks_when_explained: raise in the middle of every pass that an explanation makes.
    """

    breaks_when_explained = False

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        )
        self.features = nn.Sequential(
            nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(6 * 9, CLASSES)
        self.stem.requires_grad_(False).eval()

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(self.stem(x)), 3)
        # Nobody but an explanation freezes the head.
        if self.breaks_when_explained and not self.head.weight.requires_grad:
            raise ArithmeticError("in the model")
        return self.head(self.dropout(x.flatten(1)))

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.01)


class Recorder(pl.Callback):
    """Notes, before every training batch and at the end, all that decides how training goes on."""

    def __init__(self) -> None:
        self.record: Record = []

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._note(trainer, pl_module, batch)

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.record[-1]["loss"] = bits(outputs["loss"])

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note(trainer, pl_module, ())

    def _note(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        parts = batch.items() if isinstance(batch, dict) else enumerate(batch)
        state: dict[str, object] = {f"batch {number}": bits(part) for number, part in parts}
        state |= {**random_streams(), **global_flags(), **module_state(module)}
        state |= everything(module, "module")
        loaders = [trainer.train_dataloader, trainer.val_dataloaders]
        state |= everything(loaders, "loaders")
        state |= {
            f"metric '{name}'": bits(value)
            for name, value in trainer.callback_metrics.items()
            if "saliency" not in name
        }
        state |= {f"state_dict '{n}'": bits(t) for n, t in module.state_dict().items()}
        for number, optimizer in enumerate(trainer.optimizers):
            state |= dict(_flat(optimizer.state_dict(), f"optimizer {number}"))
        state["steps"] = trainer.global_step
        # They belong to the test that runs, and runs of different tests are compared.
        del state["warning filters"]
        state.pop("module.breaks_when_explained", None)
        self.record.append(state)


def _flat(value: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Tensor):
        yield name, bits(value)
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _flat(entry, f"{name} {key}")
    else:
        yield name, repr(value)


@dataclass(frozen=True)
class Setting:
    """How the Trainer runs."""

    precision: str = "32-true"
    val_check_interval: float = 1.0
    check_val_every_n_epoch: int = 1
    accumulate_grad_batches: int = 3
    num_workers: int = 0
    num_sanity_val_steps: int = 2

    def __str__(self) -> str:
        """Return what is not the default, as the name of a test."""
        default = Setting()
        own = {k: v for k, v in vars(self).items() if v != getattr(default, k)}
        return ",".join(f"{k}={v}" for k, v in own.items()) or "default"


def train(
    folder: Path, setting: Setting, callbacks: Sequence[pl.Callback] = (), epochs: int = 2
) -> Record:
    """Train the same module on the same data and return the record of it."""
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    module, recorder = Classifier(), Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        precision=setting.precision,  # type: ignore[arg-type]
        val_check_interval=setting.val_check_interval,
        check_val_every_n_epoch=setting.check_val_every_n_epoch,
        accumulate_grad_batches=setting.accumulate_grad_batches,
        num_sanity_val_steps=setting.num_sanity_val_steps,
        # In both runs, so that the callback is the only difference.
        logger=TensorBoardLogger(folder, name=None),
        callbacks=[*callbacks, recorder],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        module,
        DataLoader(
            AugmentedImages(32, augment=True),
            batch_size=4,
            shuffle=True,
            num_workers=setting.num_workers,
        ),
        DataLoader(
            AugmentedImages(8, augment=False), batch_size=4, num_workers=setting.num_workers
        ),
    )
    return recorder.record


def first_difference(one: Record, other: Record) -> str:
    """Return where two records part, in words; ``""`` if they are the same to the last bit."""
    for number, (before, after) in enumerate(zip(one, other, strict=True)):
        found = differences(before, after)
        if found:
            return f"before training batch {number}: " + "; ".join(found)
    return ""
