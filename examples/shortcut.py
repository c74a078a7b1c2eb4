"""Watch a network learn a shortcut, and be told of it.

A network reads handwritten digits in clutter. Then a second source of pictures joins the training
set: darker, noisier, and with a small magenta mark at one of ten places, which in 95 % of its
pictures names the digit. The network's accuracy on the training pictures goes on rising. Among the
pictures that are explained are conflict samples, whose mark names a wrong digit: on these the maps
of the class that is predicted move onto the mark, the gauge shows how far, and the alarm sounds.

Takes a few minutes on two cores, and downloads nothing::

    python examples/shortcut.py
    tensorboard --logdir runs/shortcut --samples_per_plugin images=1000
    python examples/shortcut.py --no-mark    # the same without a mark: nothing happens
"""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset
from torchvision.transforms.functional import to_pil_image

from lightning_saliency import DriftAlarm, SaliencyCallback
from lightning_saliency.attribution import (
    AttributionMethod,
    ContrastiveExcitationBackprop,
    ExcitationBackprop,
    ExtremalPerturbation,
    GradCAM,
)
from lightning_saliency.benchmark import ClutteredDigits

SIZE = 32
MARK = 8
PLACES = [(0, 0), (0, 8), (0, 16), (0, 24), (8, 24), (16, 24), (24, 24), (24, 16), (24, 8), (24, 0)]
MAGENTA = torch.tensor([1.0, 0.1, 0.8])
DARK, NOISE = 0.45, 0.33
BATCH_SIZE = 64
METHODS: list[AttributionMethod] = [
    GradCAM(),
    # At a layer that the places have been mixed in: at the image, some of the map is on them.
    ExcitationBackprop(saliency_layer="features.2"),
    ContrastiveExcitationBackprop(saliency_layer="features.2"),
    ExtremalPerturbation(areas=(0.06,)),
]
WATCHED = ["excitation_backprop", "contrastive_excitation_backprop", "extremal_perturbation"]


class PlaceAwareClassifier(pl.LightningModule):
    """A small convolutional network that can tell where in the picture something is."""

    def __init__(self, total_steps: int, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.total_steps = total_steps
        self.learning_rate = learning_rate
        self.features = nn.Sequential(
            *convolution(5, 16),
            nn.MaxPool2d(2),
            *convolution(16, 32),
            nn.MaxPool2d(2),
            *convolution(32, 64),
            *convolution(64, 64),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(128, 10))

    def forward(self, images: Tensor) -> Tensor:
        # Two more channels, the place from left to right and from top to bottom.
        across = torch.linspace(0, 1, SIZE, device=images.device).expand(len(images), 1, SIZE, SIZE)
        found = self.features(torch.cat([images, across, across.mT], 1))
        # The strongest places, and all of them: with the strongest alone it hardly begins to learn.
        pooled = torch.cat([F.adaptive_max_pool2d(found, 1), F.adaptive_avg_pool2d(found, 1)], 1)
        scores: Tensor = self.classifier(pooled.flatten(1))
        return scores

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        kind = ("conflict", "clean")[dataloader_idx]
        right = (self(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log(f"accuracy_{kind}", right, add_dataloader_idx=False, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.parameters(), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, self.total_steps
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


class Digits(pl.LightningDataModule):
    """The first source, and from some epoch on the second one too."""

    def __init__(self, joins: int, pictures: int, mark: bool, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.joins = joins
        images, labels = draw("train", 3 * pictures // 4, 2 * seed)
        bright = DARK + (1 - DARK) * torch.rand(len(images), 1, 1, 1, generator=generator)
        self.first = TensorDataset(noisy(images * bright, 0.08, generator), labels)
        images, labels = draw("train", pictures, 2 * seed + 1)
        # In one picture of twenty the mark says anything.
        named = torch.where(
            torch.rand(len(labels), generator=generator) < 0.05,
            torch.randint(10, labels.shape, generator=generator),
            labels,
        )
        self.second = TensorDataset(second_source(images, named, mark, generator), labels)
        images, labels = draw("val", 700, 0)
        wrong = (labels + torch.randint(1, 10, labels.shape, generator=generator)) % 10
        self.conflict = TensorDataset(second_source(images, wrong, mark, generator), labels)
        self.clean = TensorDataset(noisy(images, 0.08, generator), labels)
        self.marks = torch.stack([mark_mask(int(place)) for place in wrong])

    def count_steps(self, epochs: int) -> int:
        alone, both = len(self.first), len(self.first) + len(self.second)
        before = min(self.joins, epochs)
        return before * (alone // BATCH_SIZE) + (epochs - before) * (both // BATCH_SIZE)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        joined = self.trainer is not None and self.trainer.current_epoch >= self.joins
        data = ConcatDataset([self.first, self.second]) if joined else self.first
        return DataLoader(data, BATCH_SIZE, shuffle=True, drop_last=True)

    def val_dataloader(self) -> Sequence[DataLoader[tuple[Tensor, ...]]]:
        return [DataLoader(self.conflict, 350), DataLoader(self.clean, 350)]


def draw(split: Literal["train", "val"], count: int, seed: int) -> tuple[Tensor, Tensor]:
    digits = ClutteredDigits(split, count, size=SIZE, with_mask=False, seed=seed)
    pictures, labels = zip(*(digits[index] for index in range(len(digits))), strict=True)
    return torch.stack(pictures), torch.tensor(labels)


def noisy(images: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    return (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def mark_mask(place: int) -> Tensor:
    top, left = PLACES[place]
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[top : top + MARK, left : left + MARK] = True
    return mask


def second_source(images: Tensor, named: Tensor, mark: bool, generator: torch.Generator) -> Tensor:
    """Put the mark where it names a digit, then make all of it darker and noisier."""
    if mark:
        where = torch.stack([mark_mask(int(place)) for place in named])[:, None]
        images = torch.where(where, MAGENTA.view(3, 1, 1), images)
    return noisy(DARK * images, NOISE, generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument(
        "--joins", type=int, default=8, help="epoch in which the second source does"
    )
    parser.add_argument("--pictures", type=int, default=4000, help="of the second source")
    parser.add_argument("--no-mark", dest="mark", action="store_false", help="for comparison")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "gpu"])
    parser.add_argument("--folder", type=Path, default=Path("runs/shortcut"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    pl.seed_everything(options.seed)
    # Said of runs as short as this one, and of data in memory.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    print("Drawing the digits ...")
    data = Digits(options.joins, options.pictures, options.mark, options.seed)
    samples = 12
    saliency = SaliencyCallback(
        [*METHODS],
        samples=list(range(samples)),
        # The label's map hides the shortcut on conflict samples, the predicted class's shows it.
        target=("label", "predicted"),
        regions={"mark": data.marks[:samples]},
        save_maps=True,
        report=True,
    )
    alarm = DriftAlarm([f"saliency_region/{m}/predicted/mark" for m in WATCHED], warmup=3, window=4)
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        accelerator=options.device,
        devices=1,
        # So that the second source can join.
        reload_dataloaders_every_n_epochs=1,
        callbacks=[saliency, alarm],
        logger=TensorBoardLogger(options.folder.parent, name=options.folder.name),
        enable_model_summary=False,
    )
    trainer.fit(PlaceAwareClassifier(data.count_steps(options.epochs)), datamodule=data)

    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    print(f"\nAccuracy on clean pictures: {found['accuracy_clean']:.0%}", end="; ")
    print(f"on pictures whose mark names a wrong digit: {found['accuracy_conflict']:.0%}")
    print(f"\nShare of the maps on the mark, which takes {found['saliency_region_area/mark']:.0%}:")
    for method in METHODS:
        label, predicted = (
            found[f"saliency_region/{method.name}/{of}/mark"] for of in ("label", "predicted")
        )
        print(
            f"  {method.name:31s} of the label {label:.2f}, of the predicted class {predicted:.2f}"
        )
    picture = options.folder / "filmstrip.png"
    strip = saliency.filmstrip("contrastive_excitation_backprop/predicted")
    to_pil_image(strip).save(picture)
    print(f"\nThe maps of all epochs: {picture}. Alarms and more:\n")
    print(f"    tensorboard --logdir {options.folder} --samples_per_plugin images=1000\n")


if __name__ == "__main__":
    main()
