"""What the alarm hears of shortcuts that a network takes, on tasks and seeds apart from its design.

Two tasks: digits in clutter read by a small network with BatchNorm, and gratings under noise read
by blocks as in ConvNeXt. In the middle of each run another source of training pictures takes over,
in which something beside the valid evidence names the class. The explained samples carry it
throughout. A shortcut counts as taken if the accuracy with the right mark minus that without one,
or with a wrong one, changes by at least 0.1 for two explanations.

python tests/performance/bench.py evidence_runs
python tests/performance/evidence_runs.py digits fixed 7 adam
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from itertools import product
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from digit_networks import small_cnn
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import DriftAlarm, SaliencyCallback
from lightning_saliency.attribution import Gradient
from lightning_saliency.benchmark import ClutteredDigits
from lightning_saliency.trust import Evidence

EPOCHS, EVENT = 18, 11
SIDE, TRAIN, VAL, SAMPLES = 32, 500, 300, 16
NOTHING = "clean"
KINDS = ("fixed", "across", "coded", "cast", "texture", "one_class", "random", "removed")
UNUSED = "unused"
SCHEDULES = ("adam", "cosine", "restarts", "smooth", "sgd")


class Block(nn.Module):
    """A block as in ConvNeXt."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, images: Tensor) -> Tensor:
        found = self.mlp(self.norm(self.depthwise(images).permute(0, 2, 3, 1)))
        return images + found.permute(0, 3, 1, 2)


def next_like() -> nn.Module:
    width = 32
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=4), Block(width), Block(width)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 6))


def digits(split: Any, count: int, seed: int) -> tuple[Tensor, Tensor]:
    data = ClutteredDigits(split, count, size=SIDE, with_mask=False, seed=seed)
    images, labels = zip(*(data[index] for index in range(count)), strict=True)
    return torch.stack(images), torch.tensor(labels)


def gratings(split: Any, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Gratings in a disc at a random place, whose direction is the class, under noise."""
    generator = torch.Generator().manual_seed(1000 * seed + (split == "val"))
    labels = torch.arange(count) % 6
    place = torch.arange(SIDE).float()
    rows, columns = place[:, None], place[None, :]
    rand = torch.rand(count, 6, generator=generator)
    angle = ((labels + 0.35 * (rand[:, 0] - 0.5)) * torch.pi / 6).view(-1, 1, 1)
    phase = 2 * torch.pi * rand[:, 1].view(-1, 1, 1)
    wave = torch.sin(
        2 * torch.pi / 6 * (torch.cos(angle) * columns + torch.sin(angle) * rows) + phase
    )
    at = 8 + 16 * rand[:, 2:4]
    disc = (rows - at[:, 0].view(-1, 1, 1)) ** 2 + (columns - at[:, 1].view(-1, 1, 1)) ** 2 < 64
    tint = 0.15 + 0.1 * torch.rand(count, 3, 1, 1, generator=generator)
    images = 0.5 + tint * (wave * disc)[:, None]
    noise = 0.35 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return (images + noise).clamp(0, 1), labels


TASKS: dict[str, Any] = {"digits": (digits, small_cnn, 10), "gratings": (gratings, next_like, 6)}


def color_of(named: Tensor) -> Tensor:
    """A color for each class, (N, 3, 1, 1), as far apart as three steps of each channel allow."""
    code = torch.stack([named % 3, named // 3 % 3, (named + named // 9) % 3], 1)
    return (code.float() / 2).view(-1, 3, 1, 1)


def mark(images: Tensor, named: Tensor, kind: str, classes: int, seed: int) -> Tensor:
    """Return pictures with something beside the valid evidence that names a class."""
    images, generator = images.clone(), torch.Generator().manual_seed(seed + 77)
    place = torch.arange(SIDE).float()
    color = color_of(named)
    if kind in ("fixed", "across", "one_class", "removed", UNUSED):
        only = named == 3 if kind == "one_class" else torch.ones_like(named).bool()
        # Inside the first cell of the grid, or over the borders of four.
        first = 3 if kind == "across" else 0
        images[only, :, first : first + 6, first : first + 6] = color[only].expand(-1, 3, 6, 6)
    elif kind == "random":
        where = torch.randint(0, SIDE - 6, (len(images), 2), generator=generator).tolist()
        for image, one, (top, left) in zip(images, color, where, strict=True):
            image[:, top : top + 6, left : left + 6] = one
    elif kind == "coded":
        for image, label in zip(images, named.tolist(), strict=True):
            left = round(label * (SIDE - 6) / (classes - 1))
            image[:, 26:32, left : left + 6] = torch.tensor([1.0, 0.1, 0.8]).view(3, 1, 1)
    elif kind == "cast":
        images = images + 0.25 * (color - 0.5)
    elif kind == "texture":
        period = 2.2 + named.float().view(-1, 1, 1) * 0.5
        wave = torch.sin(2 * torch.pi * (place[:, None] + place[None, :]) / period)
        images = images + 0.12 * wave[:, None]
    return images.clamp(0, 1)


class Data(pl.LightningDataModule):
    """Plain pictures, and from the event on marked ones (or the other way round)."""

    def __init__(self, task: str, kind: str, seed: int) -> None:
        super().__init__()
        draw, _, classes = TASKS[task]
        generator = torch.Generator().manual_seed(seed)
        images, labels = draw("train", TRAIN, 2 * seed + 1)
        other = labels[torch.randperm(len(labels), generator=generator)]
        named = other if kind == UNUSED else labels
        with_mark = TensorDataset(mark(images, named, kind, classes, seed), labels)
        plain = TensorDataset(images, labels)
        self.sources = (with_mark, plain) if kind == "removed" else (plain, with_mark)
        if kind in (NOTHING, UNUSED):
            self.sources = (self.sources[1],) * 2
        images, labels = draw("val", VAL, 2 * seed + 2)
        wrong = (
            labels + 1 + torch.randint(classes - 1, labels.shape, generator=generator)
        ) % classes
        self.val = {
            "right": (mark(images, labels, kind, classes, seed), labels),
            "none": (images, labels),
            "wrong": (mark(images, wrong, kind, classes, seed), labels),
        }

    def train_dataloader(self) -> DataLoader[Any]:
        epoch = self.trainer.current_epoch if self.trainer else 0
        source = self.sources[int(epoch >= EVENT)]
        return DataLoader(source, 25, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*self.val["right"]), 100)


class Classifier(pl.LightningModule):
    def __init__(self, network: nn.Module, schedule: str, data: Data) -> None:
        super().__init__()
        self.network, self.schedule = network, schedule
        self._data = [data]
        self.accuracy: dict[str, list[float]] = {"right": [], "none": [], "wrong": []}

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.network((images - 0.4) / 0.25)
        return found

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        smoothing = 0.1 if self.schedule == "smooth" else 0.0
        return F.cross_entropy(self(batch[0]), batch[1], label_smoothing=smoothing)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        for name, (images, labels) in self._data[0].val.items():
            right = (self(images).argmax(1) == labels).float().mean()
            self.accuracy[name].append(float(right))

    def configure_optimizers(self) -> Any:
        if self.schedule == "sgd":
            sgd = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
            return [sgd], [torch.optim.lr_scheduler.MultiStepLR(sgd, [9, 14], 0.2)]
        adam = torch.optim.AdamW(self.parameters(), 4e-3, weight_decay=0.01)
        if self.schedule == "cosine":
            return [adam], [torch.optim.lr_scheduler.CosineAnnealingLR(adam, EPOCHS)]
        if self.schedule == "restarts":
            return [adam], [torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(adam, 6)]
        return adam


class Heard(pl.Callback):
    """Notes at which explanations which gauge sounds."""

    def __init__(self, alarm: DriftAlarm) -> None:
        self.alarm = alarm
        self.sounded: dict[int, list[str]] = {}
        self.gains: dict[str, list[float]] = {"place_gain": [], "kind_gain": []}

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking and self.alarm.sounding:
            self.sounded[trainer.current_epoch] = list(self.alarm.sounding)
        for name in ("place_gain", "kind_gain"):
            found = trainer.callback_metrics.get(f"saliency_evidence/label/{name}")
            if found is not None and not trainer.sanity_checking:
                self.gains[name].append(round(float(found), 3))


def run(task: str, kind: str, seed: int, schedule: str) -> dict[str, Any]:
    """Train once; return what was heard, and whether the network took the shortcut."""
    warnings.simplefilter("ignore")
    pl.seed_everything(seed, verbose=False)
    _, make, _ = TASKS[task]
    data = Data(task, kind, seed)
    module = Classifier(make(), schedule, data)
    start = time.process_time()
    alarm = DriftAlarm()
    saliency = SaliencyCallback(
        Gradient(), samples=SAMPLES, evidence=Evidence(), on_error="raise", noise_every=None
    )
    heard = Heard(alarm)
    with TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            logger=False,
            callbacks=[saliency, alarm, heard],
            reload_dataloaders_every_n_epochs=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, datamodule=data)
    seconds = time.process_time() - start
    settings = {"task": task, "kind": kind, "seed": seed, "schedule": schedule}
    return settings | judge(module.accuracy, heard.sounded, kind, seconds) | heard.gains


def judge(
    accuracy: dict[str, list[float]], sounded: dict[int, list[str]], kind: str, seconds: float
) -> dict[str, Any]:
    """Return since when the network depended on the shortcut, and what sounded before and since."""
    depends = [
        right - min(none, wrong)
        for right, none, wrong in zip(
            *(accuracy[n] for n in ("right", "none", "wrong")), strict=True
        )
    ]
    base = depends[EVENT - 1]
    changed = [abs(value - base) >= 0.1 for value in depends]
    onset = next((e for e in range(EVENT, EPOCHS) if changed[e] and all(changed[e : e + 2])), None)
    if kind in (NOTHING, UNUSED):
        onset = None
    families = {"place": "place_gain", "kind": "kind_gain", "maps": "saliency_drift"}
    times = {
        name: sorted(e for e, tags in sounded.items() if any(part in tag for tag in tags))
        for name, part in families.items()
    }
    return {
        "onset": onset,
        "heard": {
            n: [e for e in found if onset is not None and e >= EVENT] for n, found in times.items()
        },
        "false": {
            n: [e for e in found if onset is None or e < EVENT] for n, found in times.items()
        },
        # From the tenth on; after an event that was not taken nothing is expected either.
        "judged": (EPOCHS if onset is None else EVENT) - 9,
        "accuracy": {name: [round(v, 3) for v in values] for name, values in accuracy.items()},
        "seconds": round(seconds),
    }


def main(quick: bool = False, seeds: tuple[int, ...] = (301, 302, 303)) -> list[dict[str, Any]]:
    """Run everything; print a line for each run, and the table."""
    torch.set_num_threads(1)
    plan = [(t, k, s, "adam") for k, t, s in product(KINDS, TASKS, seeds)]
    plan += [(t, k, s, c) for k, t, c in product((NOTHING,), TASKS, SCHEDULES) for s in seeds[:1]]
    plan += [(t, UNUSED, s, "adam") for t in TASKS for s in seeds]
    results = []
    for settings in plan[:1] if quick else plan:
        results.append(run(*settings))
        print(json.dumps(results[-1]), flush=True)
    summarize(results)
    return results


def summarize(results: list[dict[str, Any]]) -> None:
    """Print how many of the taken shortcuts were heard, and how many alarms were false."""
    print(f"\n{'kind':12s}  runs taken  maps place  kind either")
    for kind in KINDS:
        of_kind = [each for each in results if each["kind"] == kind]
        taken = [each for each in of_kind if each["onset"] is not None]
        counts = [sum(bool(each["heard"][n]) for each in taken) for n in ("maps", "place", "kind")]
        counts.append(sum(bool(each["heard"]["place"] or each["heard"]["kind"]) for each in taken))
        cells = "".join(f"{count:6d}" for count in (len(of_kind), len(taken), *counts))
        print(f"{kind:12s}{cells}")
    judged = sum(each["judged"] for each in results)
    false = {n: sum(len(each["false"][n]) for each in results) for n in ("maps", "place", "kind")}
    print(f"false alarms among {judged} judged explanations: {false}")


if __name__ == "__main__":
    task, kind, seed, schedule = sys.argv[1:]
    torch.set_num_threads(1)
    print(json.dumps(run(task, kind, int(seed), schedule)))
