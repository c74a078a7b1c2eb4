"""Watch a network learn a shortcut, and be told of it.

A network reads handwritten digits in clutter. Then a second source of pictures comes, in which a
small mark names the digit in 95 % of the pictures:

- ``--kind replaces``: a magenta mark at one of ten places, in pictures so dark and noisy that the
  digit can hardly be read, beside the first ones. The mark takes the place of the evidence. The
  explained samples are conflicts, whose mark names a wrong digit: the maps of the class that is
  predicted move onto it.
- ``--kind joins``: a mark in the corner, in one of ten colors, in pictures like those before, which
  it follows. The digit is as good a reason as ever, and the network takes both. The mark of the
  explained samples is right, as in a validation set from the same source: nothing looks wrong.
  What the network needs is measured by removing it.

At the end it says what the drift of the maps, the share of the maps on the mark, and the evidence
have told. Takes a few minutes on two cores, and downloads nothing::

    python examples/shortcut.py
    python examples/shortcut.py --kind joins
    tensorboard --logdir runs/shortcut --samples_per_plugin images=1000
    python examples/shortcut.py --no-mark    # the same without a mark, for comparison
"""

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

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
from lightning_saliency.trust import Evidence

SIZE = 32
MARK = 8
PLACES = [(0, 0), (0, 8), (0, 16), (0, 24), (8, 24), (16, 24), (24, 24), (24, 16), (24, 8), (24, 0)]
MAGENTA = torch.tensor([1.0, 0.1, 0.8])
# As far apart as three steps of red and green, and two of blue, allow.
COLORS = torch.tensor([[d % 3 / 2, d // 3 % 3 / 2, d % 2] for d in range(10)])
DARK, NOISE = 0.45, 0.33
# Where the mark joins the digit, the digit cannot always be read; else nothing is left to learn.
NOISE_BESIDE = 0.2
BATCH_SIZE = 64
Kind = Literal["replaces", "joins"]
DRIFTS = ("top10_iou", "spearman", "ssim")
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

    def __init__(self, total_steps: int | None, learning_rate: float) -> None:
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
        kind = ("explained", "clean", "conflict")[dataloader_idx]
        right = (self(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log(f"accuracy_{kind}", right, add_dataloader_idx=False, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.parameters(), self.learning_rate, weight_decay=0.05)
        if self.total_steps is None:
            return optimizer
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

    def __init__(self, kind: Kind, joins: int, pictures: int, mark: bool, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.kind, self.joins = kind, joins
        noise = 0.08 if kind == "replaces" else NOISE_BESIDE
        images, labels = draw("train", 3 * pictures // 4, 2 * seed)
        bright = DARK + (1 - DARK) * torch.rand(len(images), 1, 1, 1, generator=generator)
        self.first = TensorDataset(noisy(images * bright, noise, generator), labels)
        images, labels = draw("train", pictures, 2 * seed + 1)
        # In one picture of twenty the mark says anything.
        named = torch.where(
            torch.rand(len(labels), generator=generator) < 0.05,
            torch.randint(10, labels.shape, generator=generator),
            labels,
        )
        self.second = TensorDataset(second_source(kind, images, named, mark, generator), labels)
        images, labels = draw("val", 700, 0)
        wrong = (labels + torch.randint(1, 10, labels.shape, generator=generator)) % 10
        self.conflict = TensorDataset(second_source(kind, images, wrong, mark, generator), labels)
        self.clean = TensorDataset(noisy(images, noise, generator), labels)
        self.explained, named = self.conflict, wrong
        if kind == "joins":
            right = second_source(kind, images, labels, mark, generator)
            self.explained, named = TensorDataset(right, labels), labels
        self.marks = torch.stack([mark_mask(kind, int(digit)) for digit in named])

    def source(self, epoch: int) -> TensorDataset | ConcatDataset[tuple[Tensor, ...]]:
        if epoch < self.joins:
            return self.first
        # Beside pictures without a mark, the network would hardly need it where the digit is seen.
        return self.second if self.kind == "joins" else ConcatDataset([self.first, self.second])

    def count_steps(self, epochs: int) -> int:
        return sum(len(self.source(epoch)) // BATCH_SIZE for epoch in range(epochs))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        return DataLoader(self.source(epoch), BATCH_SIZE, shuffle=True, drop_last=True)

    def val_dataloader(self) -> Sequence[DataLoader[tuple[Tensor, ...]]]:
        return [DataLoader(data, 350) for data in (self.explained, self.clean, self.conflict)]


def draw(split: Literal["train", "val"], count: int, seed: int) -> tuple[Tensor, Tensor]:
    digits = ClutteredDigits(split, count, size=SIZE, with_mask=False, seed=seed)
    pictures, labels = zip(*(digits[index] for index in range(len(digits))), strict=True)
    return torch.stack(pictures), torch.tensor(labels)


def noisy(images: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    return (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def mark_mask(kind: Kind, named: int) -> Tensor:
    top, left = PLACES[named if kind == "replaces" else 0]
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[top : top + MARK, left : left + MARK] = True
    return mask


def second_source(
    kind: Kind, images: Tensor, named: Tensor, mark: bool, generator: torch.Generator
) -> Tensor:
    """Put the mark that names a digit into the pictures, then add noise; darker if it replaces."""
    if mark:
        where = torch.stack([mark_mask(kind, int(digit)) for digit in named])[:, None]
        color = MAGENTA if kind == "replaces" else COLORS[named]
        images = torch.where(where, color.view(-1, 3, 1, 1), images)
    if kind == "replaces":
        return noisy(DARK * images, NOISE, generator)
    return noisy(images, NOISE_BESIDE, generator)


class Heard(pl.Callback):
    """Keeps in which epochs which numbers are out of the usual."""

    def __init__(self, alarms: dict[str, DriftAlarm]) -> None:
        self.alarms = alarms
        self.numbers: dict[str, dict[int, list[str]]] = {name: {} for name in alarms}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, alarm in self.alarms.items():
            if alarm.sounding and not trainer.sanity_checking:
                self.numbers[name][trainer.current_epoch] = alarm.sounding

    def print(self) -> None:
        for name, numbers in self.numbers.items():
            if not numbers:
                print(f"  {name}: nothing out of the usual")
            for epoch, tags in numbers.items():
                # saliency_<kind>/<method>/<class>/..., and saliency_evidence/<class>/<number>
                series = {"/".join(tag.split("/")[1:3]) for tag in tags}
                print(f"  {name}, epoch {epoch}: {', '.join(sorted(series))}")


class Sentences(logging.Handler):
    """Keeps what the alarms say of the evidence, which names the place and the kind."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "share of the evidence" in record.getMessage():
            self.lines.append(record.getMessage())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=get_args(Kind), default="replaces")
    parser.add_argument("--epochs", type=int, help="default: 12, or 19 if it joins")
    parser.add_argument(
        "--joins", type=int, help="epoch in which the second source does; default: 8 or 15"
    )
    parser.add_argument("--pictures", type=int, default=4000, help="of the second source")
    parser.add_argument("--no-mark", dest="mark", action="store_false", help="for comparison")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "gpu"])
    parser.add_argument("--folder", type=Path, default=Path("runs/shortcut"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kind: Kind = options.kind
    epochs = options.epochs or (12 if kind == "replaces" else 19)
    # Learning the digits moves the evidence too, so the mark that joins comes after that.
    joins = (8 if kind == "replaces" else 15) if options.joins is None else options.joins

    pl.seed_everything(options.seed)
    # Said of runs as short as this one, and of data in memory.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    print("Drawing the digits ...")
    data = Digits(kind, joins, options.pictures, options.mark, options.seed)
    samples = 12
    saliency = SaliencyCallback(
        [*METHODS],
        samples=list(range(samples)),
        # The label's map hides the shortcut on conflict samples, the predicted class's shows it.
        target=("label", "predicted"),
        regions={"mark": data.marks[:samples]},
        # The places of the marks are cells of a grid of 4 x 4.
        evidence=Evidence(grid=SIZE // MARK),
        save_maps=True,
        report=True,
    )
    # One alarm for each instrument, so that each tells by itself.
    drifts = [f"saliency_drift/*/previous/{each}" for each in DRIFTS]
    regions = [f"saliency_region/{each}/predicted/mark" for each in WATCHED]
    alarms = {
        "the drift of the maps": DriftAlarm(drifts),
        # Regions are calm from early on.
        "the share of the maps on the mark": DriftAlarm(regions, warmup=3, window=4),
        "the evidence": DriftAlarm(
            ["saliency_evidence/*/place_gain", "saliency_evidence/*/kind_gain"]
        ),
    }
    heard = Heard(alarms)
    said = Sentences()
    logger = logging.getLogger("lightning_saliency")
    logger.addHandler(said)
    logger.setLevel(logging.INFO)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator=options.device,
        devices=1,
        # So that the second source can join.
        reload_dataloaders_every_n_epochs=1,
        callbacks=[saliency, *alarms.values(), heard],
        logger=TensorBoardLogger(options.folder.parent, name=options.folder.name),
        enable_model_summary=False,
    )
    # At one learning rate, so that what is seen at the event is not of the schedule's making.
    model = (
        PlaceAwareClassifier(data.count_steps(epochs), learning_rate=0.01)
        if kind == "replaces"
        else PlaceAwareClassifier(None, learning_rate=0.004)
    )
    trainer.fit(model, datamodule=data)

    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    print(f"\nAccuracy on clean pictures {found['accuracy_clean']:.0%}", end=", ")
    print(f"on pictures whose mark names a wrong digit {found['accuracy_conflict']:.0%}", end=", ")
    print(f"on those that are explained {found['accuracy_explained']:.0%}")
    print(f"\nWhat was said (the second source came in epoch {joins}):")
    heard.print()
    print("".join(f"\n  {line}" for line in said.lines))
    print(f"\nShare of the maps on the mark, which takes {found['saliency_region_area/mark']:.0%}:")
    for method in METHODS:
        label, predicted = (
            found[f"saliency_region/{method.name}/{of}/mark"] for of in ("label", "predicted")
        )
        print(
            f"  {method.name:31s} of the label {label:.2f}, of the predicted class {predicted:.2f}"
        )
    strip = saliency.filmstrip("contrastive_excitation_backprop/predicted")
    to_pil_image(strip).save(options.folder / "filmstrip.png")
    print(f"\nThe maps of all epochs: {options.folder / 'filmstrip.png'}. Where the evidence lies:")
    print("picture saliency/evidence/label, and more, in\n")
    print(f"    tensorboard --logdir {options.folder} --samples_per_plugin images=1000\n")


if __name__ == "__main__":
    main()
