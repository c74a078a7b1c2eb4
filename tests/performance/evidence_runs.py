"""What the alarm hears of shortcuts that a network takes, on tasks and seeds apart from its design.

Five tasks: digits in clutter read by residual blocks with BatchNorm, gratings under noise read by
blocks as in ConvNeXt, dots to be counted by convolutions with squeeze and excitation, the gap of
Landolt rings found by convolutions as in VGG, and the direction from one dot to another found by
blocks as in MobileNetV2. The pictures are new in each epoch and too noisy to be told for certain.
Late in each run something beside the valid evidence begins to name the class. The explained samples
carry it throughout. A shortcut counts as taken if the accuracy with the right mark minus that
without one, or with a wrong one, changes by at least 0.1 for two explanations.

The tasks were chosen by these accuracies alone (``run(..., listens=False)``, seeds 1 and 2). By
other runs of the first three the alarm's settings were chosen; rings and pairs came later.

python tests/performance/bench.py evidence_runs
python tests/performance/evidence_runs.py digits fixed 7 adam
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.ops import SqueezeExcitation

sys.path.insert(0, str(Path(__file__).parents[1]))
from listening import Listening, trainer_of_new_data

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import Gradient
from lightning_saliency.benchmark import ClutteredDigits
from lightning_saliency.trust import Evidence

# When what names the class joins; by then the networks have learned to read most pictures.
EPOCHS, EVENT = 27, 20
SIDE, TRAIN, VAL, SAMPLES = 32, 1500, 600, 16
NOTHING = "clean"
KINDS = ("fixed", "across", "coded", "cast", "texture", "one_class", "random", "removed")
UNUSED = "unused"
SCHEDULES = ("adam", "cosine", "restarts", "smooth", "sgd")


class Residual(nn.Module):
    """A block as in ResNet."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.convolutions(images) + self.shortcut(images)
        return found.relu()


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


def res_like() -> nn.Module:
    blocks = (Residual(3, 16, 2), Residual(16, 32, 2), Residual(32, 64, 1))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def next_like() -> nn.Module:
    width = 32
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=4), Block(width), Block(width)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 6))


def gated_net() -> nn.Module:
    """Convolutions gated by squeeze and excitation, and a linear layer that knows the places."""
    layers: list[nn.Module] = []
    before = 3
    for width in (16, 32, 32):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
        layers += [SqueezeExcitation(width, width // 4), nn.MaxPool2d(2)]
        before = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16, 6))


def vgg_like() -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for widths in ((12,), (24, 24), (32, 32)):
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.ReLU()]
            before = width
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 6))


class Inverted(nn.Module):
    """A block as in MobileNetV2."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        wide = 3 * before
        self.is_residual = before == width and stride == 1
        self.convolutions = nn.Sequential(
            nn.Conv2d(before, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.convolutions(images)
        return images + found if self.is_residual else found


def mobile_like() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
    blocks = (Inverted(16, 16, 1), Inverted(16, 24, 2), Inverted(24, 24, 1), Inverted(24, 40, 2))
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 6))


@cache
def _clear_digits(split: Any, seed: int) -> tuple[Tensor, Tensor]:
    count = 3000 if split == "train" else VAL
    data = ClutteredDigits(split, count, size=SIDE, with_mask=False, seed=seed)
    images, labels = zip(*(data[index] for index in range(count)), strict=True)
    return torch.stack(images), torch.tensor(labels)


def digits(split: str, count: int, seed: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Digits in clutter, some of 3,000 pictures of these, under new noise each time."""
    images, labels = _clear_digits(split, seed)
    chosen = torch.randperm(len(images), generator=generator)[:count]
    return noisy(images[chosen], 0.18, generator), labels[chosen]


def gratings(split: str, count: int, seed: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Gratings in a disc at a random place, whose direction is the class, under noise."""
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
    tint = 0.12 + 0.06 * torch.rand(count, 3, 1, 1, generator=generator)
    return noisy(0.5 + tint * (wave * disc)[:, None], 0.4, generator), labels


def dots(split: str, count: int, seed: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """One to six dots of any size, color and place; their number is the class."""
    labels = torch.arange(count) % 6
    place = torch.arange(SIDE).float()
    images = torch.full((count, 3, SIDE, SIDE), 0.35)
    for number in range(6):
        rand = torch.rand(count, 6, 1, 1, generator=generator)
        top, left = 3 + 26 * rand[:, 0], 3 + 26 * rand[:, 1]
        away = (place[:, None] - top) ** 2 + (place[None, :] - left) ** 2
        dot = (away < (2 + 1.5 * rand[:, 2]) ** 2) & (labels >= number).view(-1, 1, 1)
        images = torch.where(dot[:, None], 0.5 + 0.4 * rand[:, 3:], images)
    return noisy(images, 0.15, generator), labels


def rings(split: str, count: int, seed: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Landolt rings anywhere among short strokes; where the gap is, is the class."""
    labels = torch.arange(count) % 6
    place = torch.arange(SIDE).float()
    rand = torch.rand(count, 8, generator=generator)
    images = torch.full((count, 3, SIDE, SIDE), 0.45)
    for _ in range(4):
        stroke = torch.rand(count, 8, generator=generator)
        top, left = ((4 + 24 * stroke[:, i]).view(-1, 1, 1) for i in (0, 1))
        across = place[:, None] - top, place[None, :] - left
        angle = (torch.pi * stroke[:, 2]).view(-1, 1, 1)
        along = across[0] * angle.sin() + across[1] * angle.cos()
        beside = across[0] * angle.cos() - across[1] * angle.sin()
        on = (along.abs() < 3) & (beside.abs() < 1)
        images = torch.where(on[:, None], 0.2 + 0.5 * stroke[:, 3:6, None, None], images)
    top, left = ((10 + 12 * rand[:, i]).view(-1, 1, 1) for i in (0, 1))
    away = ((place[:, None] - top) ** 2 + (place[None, :] - left) ** 2).sqrt()
    toward = torch.atan2(place[:, None] - top, place[None, :] - left)
    gap = (labels + 0.5 * (rand[:, 2] - 0.5)) * torch.pi / 3
    turned = torch.remainder(toward - gap.view(-1, 1, 1) + torch.pi, 2 * torch.pi) - torch.pi
    radius = (6 + 2 * rand[:, 3]).view(-1, 1, 1)
    ring = ((away - radius).abs() < 1.5) & (turned.abs() > 0.4)
    images = torch.where(ring[:, None], 0.7 + 0.2 * rand[:, 4:7, None, None], images)
    return noisy(images, 0.7, generator), labels


def pairs(split: str, count: int, seed: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """A large and a small dot; the direction from one to the other is the class."""
    labels = torch.arange(count) % 6
    place = torch.arange(SIDE).float()
    rand = torch.rand(count, 10, generator=generator)
    angle = (labels + 0.6 * (rand[:, 0] - 0.5)) * torch.pi / 3
    apart = 8 + 3 * rand[:, 1]
    middle = 11 + 10 * rand[:, 2:4]
    images = torch.full((count, 3, SIDE, SIDE), 0.4)
    for sign, radius, tint in ((-0.5, 3.6, rand[:, 4:7]), (0.5, 2.2, rand[:, 7:10])):
        top = (middle[:, 0] + sign * apart * angle.sin()).view(-1, 1, 1)
        left = (middle[:, 1] + sign * apart * angle.cos()).view(-1, 1, 1)
        away = (place[:, None] - top) ** 2 + (place[None, :] - left) ** 2
        images = torch.where(
            (away < radius**2)[:, None], 0.6 + 0.4 * tint[:, :, None, None], images
        )
    return noisy(images, 0.6, generator), labels


def noisy(images: Tensor, noise: float, generator: Generator) -> Tensor:
    return (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)


TASKS: dict[str, Any] = {
    "digits": (digits, res_like, 10),
    "gratings": (gratings, next_like, 6),
    "dots": (dots, gated_net, 6),
    "rings": (rings, vgg_like, 6),
    "pairs": (pairs, mobile_like, 6),
}
OLD, NEW = ("digits", "gratings", "dots"), ("rings", "pairs")
"""By other runs of the old ones the alarm's settings were chosen."""


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
    """Plain pictures, and from the event on marked ones (or the other way round).

    New ones in each epoch: nothing is learned by heart, so that there is something left to learn
    when the mark joins.
    """

    def __init__(self, task: str, kind: str, seed: int) -> None:
        super().__init__()
        self.draw, _, self.classes = TASKS[task]
        self.kind, self.seed = kind, seed
        generator = torch.Generator().manual_seed(2 * seed + 2)
        images, labels = self.draw("val", VAL, seed, generator)
        wrong = (
            labels + 1 + torch.randint(self.classes - 1, labels.shape, generator=generator)
        ) % self.classes
        self.val = {
            "right": (self.marked(images, labels), labels),
            "none": (images, labels),
            "wrong": (self.marked(images, wrong), labels),
        }

    def marked(self, images: Tensor, named: Tensor) -> Tensor:
        return mark(images, named, self.kind, self.classes, self.seed)

    def train_dataloader(self) -> DataLoader[Any]:
        epoch = self.trainer.current_epoch if self.trainer else 0
        generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
        images, labels = self.draw("train", TRAIN, self.seed, generator)
        if self.kind == UNUSED:
            named = labels[torch.randperm(len(labels), generator=generator)]
            images = self.marked(images, named)
        elif (epoch >= EVENT) != (self.kind == "removed"):
            images = self.marked(images, labels)
        return DataLoader(TensorDataset(images, labels), 50, shuffle=True, drop_last=True)

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
            # One network at a time, in parts, so that it stays in the cache.
            found = torch.cat([self(some).argmax(1) for some in images.split(100)])
            right = (found == labels).float().mean()
            self.accuracy[name].append(float(right))

    def configure_optimizers(self) -> Any:
        if self.schedule == "sgd":
            sgd = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
            return [sgd], [torch.optim.lr_scheduler.MultiStepLR(sgd, [9, 14], 0.2)]
        adam = torch.optim.AdamW(self.parameters(), 4e-3, weight_decay=0.01)
        if self.schedule == "cosine":
            epochs = self.trainer.max_epochs or 0
            return [adam], [torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs)]
        if self.schedule == "restarts":
            return [adam], [torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(adam, 6)]
        return adam


def rounded(profiles: Sequence[Tensor]) -> list[list[float]]:
    """Return shares to three digits, of each explanation."""
    return [[float(f"{share:.3f}") for share in each.tolist()] for each in profiles]


def run(task: str, kind: str, seed: int, schedule: str, listens: bool = True) -> dict[str, Any]:
    """Train once; return what was heard, and whether the network took the shortcut.

    Without listening, nothing is explained: to choose the tasks by accuracies alone.
    """
    warnings.simplefilter("ignore")
    pl.seed_everything(seed, verbose=False)
    _, make, _ = TASKS[task]
    data = Data(task, kind, seed)
    module = Classifier(make(), schedule, data)
    start = time.process_time()
    alarm = Listening()
    saliency = SaliencyCallback(
        Gradient(), samples=SAMPLES, evidence=Evidence(), on_error="raise", noise_every=None
    )
    with TemporaryDirectory() as folder:
        callbacks = [saliency, alarm] if listens else []
        trainer = trainer_of_new_data(EPOCHS, callbacks, folder)
        trainer.fit(module, datamodule=data)
    seconds = time.process_time() - start
    settings = {"task": task, "kind": kind, "seed": seed, "schedule": schedule}
    judged = judge(module.accuracy, alarm.sounded, alarm.judged, kind, seconds)
    profiles = {"place_shares": rounded(alarm.place), "kind_shares": rounded(alarm.kind)}
    return settings | judged | profiles


def judge(
    accuracy: dict[str, list[float]],
    sounded: dict[int, list[str]],
    judged: Sequence[int],
    kind: str,
    seconds: float,
) -> dict[str, Any]:
    """Return since when the network depended on the shortcut, and what sounded before and since.

    Args:
        accuracy: by epoch, in [0, 1], on pictures with the right mark, without one, with a wrong.
        sounded: by epoch, the tags that were out of the usual.
        judged: the epochs in which evidence could sound.
        kind: of the shortcut.
        seconds: of CPU time that the run took.
    """
    depends = depends_on(accuracy)
    changed = [abs(value - depends[EVENT - 1]) >= 0.1 for value in depends]
    onset = next((e for e in range(EVENT, EPOCHS) if changed[e] and all(changed[e : e + 2])), None)
    if kind in (NOTHING, UNUSED):
        onset = None
    families = {"place": "place_gain", "kind": "kind_gain", "maps": "saliency_drift"}
    sounds = {
        name: {e for e, tags in sounded.items() if any(part in tag for tag in tags)}
        for name, part in families.items()
    }
    # An alarm is raised when a number begins to be unusual.
    times = {name: sorted(e for e in found if e - 1 not in found) for name, found in sounds.items()}
    # After an event that was not taken nothing is expected either.
    silent_until = EPOCHS if onset is None else EVENT
    return {
        "onset": onset,
        "heard": {n: [e for e in found if e >= silent_until] for n, found in times.items()},
        "false": {n: [e for e in found if e < silent_until] for n, found in times.items()},
        "judged": [e for e in judged if e < silent_until],
        "accuracy": {name: [round(v, 3) for v in values] for name, values in accuracy.items()},
        "seconds": round(seconds),
    }


def depends_on(accuracy: dict[str, list[float]]) -> list[float]:
    """Return for each epoch how much accuracy depends on what is beside the valid evidence."""
    columns = (accuracy[name] for name in ("right", "none", "wrong"))
    return [right - min(none, wrong) for right, none, wrong in zip(*columns, strict=True)]


def planned(seeds: tuple[int, int, int] = (911, 912, 913)) -> list[tuple[str, str, int, str]]:
    """Return every run, in an order that has something of everything early.

    Args:
        seeds: of the runs.

    Returns:
        (task, kind, seed, schedule) each, what :func:`run` takes.
    """
    first, second, third = seeds
    plan = [(t, k, first, "adam") for k in ("fixed", NOTHING, UNUSED) for t in NEW]
    plan += [(t, k, first, "adam") for k in KINDS[1:] for t in NEW]
    plan += [(t, k, s, "adam") for s in (second, third) for k in ("fixed", UNUSED) for t in NEW]
    plan += [(t, NOTHING, second, c) for c in SCHEDULES[1:] for t in NEW]
    plan += [(t, k, first, "adam") for k in ("fixed", NOTHING, UNUSED) for t in OLD]
    plan += [(t, NOTHING, second, c) for c in SCHEDULES[1:] for t in OLD]
    plan += [(t, k, first, "adam") for k in KINDS[1:] for t in OLD]
    plan += [(t, "fixed", s, "adam") for s in (second, third) for t in OLD]
    plan += [(t, k, second, "adam") for k in KINDS[1:] for t in NEW]
    return plan


def main(quick: bool = False) -> list[dict[str, Any]]:
    """Run everything; print a line for each run, and the tables."""
    torch.set_num_threads(1)
    results = []
    for settings in planned()[:1] if quick else planned():
        results.append(run(*settings))
        print(json.dumps(results[-1]), flush=True)
    for name, tasks in (("all tasks", (*NEW, *OLD)), ("new tasks", NEW), ("old tasks", OLD)):
        print(f"\n{name}")
        summarize([each for each in results if each["task"] in tasks])
    return results


def summarize(results: list[dict[str, Any]]) -> None:
    """Print how many of the taken shortcuts were heard, and how many alarms were false."""
    print(f"\n{'kind':12s}  runs taken  maps place  kind either  accuracy that depends on it")
    for kind in KINDS:
        of_kind = [each for each in results if each["kind"] == kind]
        taken = [each for each in of_kind if each["onset"] is not None]
        counts = [sum(bool(each["heard"][n]) for each in taken) for n in ("maps", "place", "kind")]
        counts.append(sum(bool(each["heard"]["place"] or each["heard"]["kind"]) for each in taken))
        cells = "".join(f"{count:6d}" for count in (len(of_kind), len(taken), *counts))
        # Of one that is removed, how much did before.
        epochs = slice(0, EVENT) if kind == "removed" else slice(EVENT, None)
        most = sorted(max(depends_on(each["accuracy"])[epochs]) for each in taken)
        print(f"{kind:12s}{cells}   {' '.join(f'{each:.2f}' for each in most)}")
    for families in (("place",), ("kind",), ("place", "kind")):
        found = [each for result in results for each in quiet(result, families)]
        print(f"false alarms of {' or '.join(families)}: {sum(found)} of {len(found)} explanations")
    maps = sum(len(each["false"]["maps"]) for each in results)
    print(f"false alarms of the maps in the same runs: {maps}")


def quiet(result: dict[str, Any], families: Sequence[str]) -> list[bool]:
    """Return of a run's judged explanations without an event whether an alarm was raised.

    Args:
        result: of :func:`run`.
        families: whose alarms, of "place" and "kind".
    """
    loud = {epoch for family in families for epoch in result["false"][family]}
    return [epoch in loud for epoch in result["judged"]]


if __name__ == "__main__":
    task, kind, seed, schedule = sys.argv[1:]
    torch.set_num_threads(1)
    print(json.dumps(run(task, kind, int(seed), schedule)))
