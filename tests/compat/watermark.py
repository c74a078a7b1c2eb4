"""A watermark joins the fine-tuning of a network with the weights of ImageNet: what the alarm says.

The network tells crops of four photographs apart, gray and noisy, so that it makes mistakes. From
some epoch on the training crops of one photograph carry the watermark of the class "carton" in
ImageNet (Li et al. A whac-a-mole dilemma. CVPR 2023, arXiv:2212.04825). Another run with the same
seed never sees it in training. The explained crops of that photograph carry it in both.

Not among the usual tests, because the weights are large: ``make test-compat`` installs them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from listening import Listening, trainer_of_new_data
from photographs import KNOWN, MEAN, STD, network
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.functional import normalize, resize, rgb_to_grayscale

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import GradCAM
from lightning_saliency.trust import Evidence

SIDE, TRAIN, VAL, SAMPLES = 96, 240, 80, 16
EPOCHS, JOINS = 16, 10
MARKED = 0  # the cat
NOISE = 0.15
# Of the network's 16 blocks; the others, and the stem, stay as they are.
TUNED_BLOCKS = 5


def crops(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return crops of the photographs, (N, 3, SIDE, SIDE) in [0, 1], and of which one."""
    from skimage import data

    photos = [torch.from_numpy(getattr(data, name)()).movedim(2, 0) / 255 for name in KNOWN]
    labels = torch.arange(count) % len(photos)
    found = []
    for label in labels.tolist():
        photo = photos[label]
        side = int(torch.randint(14, 30, (), generator=generator))
        top, left = (
            int(torch.randint(room - side, (), generator=generator)) for room in photo.shape[1:]
        )
        crop = rgb_to_grayscale(photo[:, top : top + side, left : left + side], 3)
        found.append(resize(crop, [SIDE, SIDE], antialias=True))
    # Not too bright for a white watermark.
    images = 0.6 * torch.stack(found)
    noise = NOISE * torch.randn(count, 1, SIDE, SIDE, generator=generator)
    return (images + noise).clamp(0, 1), labels


def watermarked(images: Tensor, chosen: Tensor) -> Tensor:
    """Return the pictures, those that are chosen with the watermark."""
    from imagenet_w import AddWatermark

    add = AddWatermark(SIDE)
    return torch.stack(
        [add(image) if one else image for image, one in zip(images, chosen.tolist(), strict=True)]
    )


class Crops(pl.LightningDataModule):
    """New crops in each epoch."""

    def __init__(self, joins: int, seed: int) -> None:
        super().__init__()
        self.joins, self.seed = joins, seed
        images, labels = crops(VAL, torch.Generator().manual_seed(seed))
        self.labels = labels
        nobody, others = torch.zeros_like(labels).bool(), labels != MARKED
        self.marked = watermarked(images, ~others)
        # Which pictures, and whether they carry the watermark.
        self.val = {
            "cats with": (self.marked[~others]),
            "cats without": (watermarked(images, nobody)[~others]),
            "others with": (watermarked(images, others)[others]),
            "others without": (self.marked[others]),
        }

    def train_dataloader(self) -> DataLoader[Any]:
        epoch = self.trainer.current_epoch if self.trainer else 0
        generator = torch.Generator().manual_seed(1000 * self.seed + epoch + 1)
        images, labels = crops(TRAIN, generator)
        if epoch >= self.joins:
            images = watermarked(images, labels == MARKED)
        data = TensorDataset(normalize(images, MEAN, STD), labels)
        return DataLoader(data, 16, shuffle=True, generator=generator)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(normalize(self.marked, MEAN, STD), self.labels), 50)


class FineTuned(pl.LightningModule):
    def __init__(self, data: Crops) -> None:
        super().__init__()
        self.model: Any = network()
        self.model._fc = nn.Linear(self.model._fc.in_features, len(KNOWN))
        self.model.requires_grad_(False)
        self.tuned = nn.ModuleList(
            [
                *self.model._blocks[-TUNED_BLOCKS:],
                self.model._conv_head,
                self.model._bn1,
                self.model._fc,
            ]
        ).requires_grad_()
        self._data = [data]
        # Share of the pictures that are taken for the cat.
        self.cats: dict[str, list[float]] = {name: [] for name in data.val}

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.model(images)
        return found

    def on_train_epoch_start(self) -> None:
        self.model.eval()
        self.tuned.train()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        for name, images in self._data[0].val.items():
            found = self(normalize(images, MEAN, STD)).argmax(1)
            self.cats[name].append(float((found == MARKED).float().mean()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.tuned.parameters(), 5e-4)


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        cats: in each epoch, the share of the pictures of four kinds that are taken for the cat.
        alarm: that has listened.
        said: the warnings.
    """

    cats: dict[str, list[float]]
    alarm: Listening
    said: list[str]


def fine_tune(
    joins: int, seed: int = 0, listens: bool = True, samples: int | list[int] = SAMPLES
) -> Run:
    """Train once; without listening, to choose the task by accuracies alone."""
    pl.seed_everything(seed, verbose=False)
    data = Crops(joins, seed)
    module = FineTuned(data)
    alarm = Listening()
    saliency = SaliencyCallback(
        GradCAM(),
        samples=samples,
        evidence=Evidence(),
        mean=MEAN,
        std=STD,
        on_error="raise",
        noise_every=None,
    )
    with warnings.catch_warnings(record=True) as said, TemporaryDirectory() as folder:
        warnings.simplefilter("always")
        trainer = trainer_of_new_data(EPOCHS, [saliency, alarm] if listens else [], folder)
        trainer.fit(module, datamodule=data)
    return Run(module.cats, alarm, [str(each.message) for each in said])


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    """Return the run with the watermark and the one without it."""
    return {"with": fine_tune(JOINS), "without": fine_tune(EPOCHS)}


def test_both_runs_end_and_say_something_finite(runs: dict[str, Run]) -> None:
    for name, found in runs.items():
        print(f"\n{name} the watermark: heard {found.alarm.sounded}")
        print(*(line for line in found.said if line.startswith("Epoch ")), sep="\n")
        for kind, shares in found.cats.items():
            print(f"  {kind}, taken for the cat:", *(f"{each:.2f}" for each in shares))
        for part, profiles in (("place", found.alarm.place), ("kind", found.alarm.kind)):
            assert len(profiles) == EPOCHS
            table = torch.stack(profiles)
            assert bool((table >= 0).all())
            torch.testing.assert_close(table.sum(1), torch.ones(EPOCHS))
            print(f"  {part}, from explanation {JOINS - 1} on:")
            print(*((each * 100).round().int().tolist() for each in table[JOINS - 2 :]), sep="\n")


def test_until_the_watermark_joins_both_runs_are_the_same(runs: dict[str, Run]) -> None:
    with_mark, without = runs["with"], runs["without"]
    for name, shares in with_mark.cats.items():
        assert shares[:JOINS] == without.cats[name][:JOINS]
    for ours, theirs in (
        (with_mark.alarm.place, without.alarm.place),
        (with_mark.alarm.kind, without.alarm.kind),
    ):
        assert all(map(torch.equal, ours[:JOINS], theirs[:JOINS]))
        # Afterwards another training.
        assert not torch.equal(ours[-1], theirs[-1])


def test_the_network_takes_the_watermark_for_the_cat(runs: dict[str, Run]) -> None:
    """Else nothing is there to hear."""
    gained = [run.cats["others with"][-1] - run.cats["others without"][-1] for run in runs.values()]
    assert gained[0] >= 0.1 + gained[1]
