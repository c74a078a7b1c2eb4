"""Networks that learn a small task within a minute while two methods are watched.

What is seen of them is judged by eye and by numbers: a residual network of which the last layer has
3 x 3 places, a vision transformer, and the network of the first run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from color_differences import Difference, color_difference
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18
from torchvision.models.vision_transformer import VisionTransformer

from lightning_saliency import DriftAlarm, SaliencyCallback, load_maps
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.benchmark import ClutteredDigits

SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIDE = 96
_EXAMPLES = Path(__file__).parents[1] / "examples"


def shapes(count: int, seed: int) -> TensorDataset:
    """Return images (count, 3, 96, 96) of a colored shape on colored noise, with its class."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, 3, 24, 24, generator=generator)
    images = 0.5 * F.interpolate(noise, size=(SIDE, SIDE), mode="bilinear")
    labels = torch.arange(count) % len(SHAPES)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    for image, label in zip(images, labels.tolist(), strict=True):
        center = 16 + (SIDE - 32) * torch.rand(2, generator=generator)
        inside = _drawn(SHAPES[label], (rows - center[0]) / 14, (columns - center[1]) / 14)
        color = 0.5 + 0.5 * torch.rand(3, generator=generator)
        image[:, inside] = color.view(3, 1)
    return TensorDataset(images, labels)


def _drawn(shape: str, y: Tensor, x: Tensor) -> Tensor:
    """Return which pixels are in a shape that reaches from -1 to 1."""
    distance = (x.square() + y.square()).sqrt()
    drawn = {
        "circle": distance < 1,
        "square": (x.abs() < 0.85) & (y.abs() < 0.85),
        "triangle": (y < 0.9) & (2 * x.abs() < y + 1),
        "cross": torch.minimum(x.abs(), y.abs()).lt(0.3) & (torch.maximum(x.abs(), y.abs()) < 1),
        "ring": (distance < 1) & (distance > 0.6),
    }
    return drawn[shape]


class Classifier(pl.LightningModule):
    """As anybody would write it."""

    def __init__(self, network: nn.Module, one_cycle: bool) -> None:
        super().__init__()
        self.network = network
        self.one_cycle = one_cycle

    def forward(self, images: Tensor) -> Any:
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        scores = self(images)
        self.log("val_loss", F.cross_entropy(scores, labels))
        self.log("val_acc", (scores.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 1e-3, weight_decay=0.05)
        if not self.one_cycle:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class Damage(pl.Callback):
    """Replaces the weights of the last stage in one epoch, for an alarm to be seen."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch - 1:
            for layer in pl_module.network.layer4.modules():  # type: ignore[union-attr]
                if isinstance(layer, nn.Conv2d):
                    layer.reset_parameters()


def _residual() -> pl.LightningModule:
    return Classifier(resnet18(num_classes=len(SHAPES)), one_cycle=True)


def _transformer() -> pl.LightningModule:
    network = VisionTransformer(
        SIDE, 12, num_layers=4, num_heads=4, hidden_dim=96, mlp_dim=192, num_classes=len(SHAPES)
    )
    return Classifier(network, one_cycle=False)


def first_run() -> ModuleType:
    """Return the module of the example."""
    spec = importlib.util.spec_from_file_location("first_run", _EXAMPLES / "first_run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# What makes the module, epochs, training images, and how many of them are a batch.
RUNS: dict[str, tuple[Callable[[], pl.LightningModule], int, int, int]] = {
    "resnet18": (_residual, 8, 640, 16),
    "vit": (_transformer, 12, 960, 32),
    "digits": (lambda: first_run().DigitClassifier(), 4, 2000, 32),
}


def watch(
    name: str,
    folder: Path,
    callbacks: list[pl.Callback] | None = None,
    seed: int = 0,
    **settings: Any,
) -> SaliencyCallback:
    """Train one of :data:`RUNS` with TensorBoard in ``folder / name``, its maps saved.

    The seed decides about weights and order, and which shapes are drawn.
    """
    make, epochs, count, size = RUNS[name]
    torch.manual_seed(seed)
    if name == "digits":
        draw = first_run().draw
        train = draw(ClutteredDigits("train", length=count, with_mask=False))
        val = draw(ClutteredDigits("val", length=200, with_mask=False))
    else:
        train, val = shapes(count, seed=2 * seed + 1), shapes(100, seed=2 * seed + 2)
    saliency = SaliencyCallback(
        [Gradient(), GradCAM()],
        save_maps=True,
        class_names=None if name == "digits" else SHAPES,
        **{"samples": 10, **settings},
    )
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(folder, name=name, version=""),
        callbacks=[saliency, *(callbacks or [])],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=10,
    )
    trainer.fit(make(), DataLoader(train, size, shuffle=True, drop_last=True), DataLoader(val, 50))
    return saliency


def seen(run: Path) -> dict[str, Difference]:
    """Return by method how far the colors of all saved maps stand out."""
    found = {}
    for method in ("gradient", "grad_cam"):
        saved = load_maps(run, method)
        assert saved.pictures is not None
        count = len(saved)
        images = (saved.pictures.float() / 255).repeat(count, 1, 1, 1)
        found[method] = color_difference(images, saved.maps.flatten(0, 1))
    return found


def alarmed() -> list[pl.Callback]:
    """Return callbacks that damage the residual network in epoch 6, and sound an alarm."""
    return [Damage(6), DriftAlarm(warmup=2, window=4, agree=1, factor=1.5)]
