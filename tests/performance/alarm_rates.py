"""How often an alarm is false, and whether it is heard when the weights are lost.

python tests/performance/bench.py alarm_rates
"""

from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from lightning_saliency import DriftAlarm, SaliencyCallback
from lightning_saliency.attribution import (
    RISE,
    ContrastiveExcitationBackprop,
    DeconvNet,
    ExcitationBackprop,
    ExtremalPerturbation,
    GradCAM,
    Gradient,
    GuidedBackprop,
    LinearApprox,
)
from lightning_saliency.metrics import MEASURES

METHODS = [
    Gradient(),
    GuidedBackprop(),
    DeconvNet(),
    GradCAM(),
    LinearApprox(),
    ExcitationBackprop(),
    ContrastiveExcitationBackprop(),
    RISE(num_masks=128),
    ExtremalPerturbation(areas=(0.2,), max_iter=12),
]
INSENSITIVE = ("guided_backprop", "deconvnet")


class Digits(pl.LightningModule):
    """A small network that reads scanned digits; its weights are lost in one epoch, if asked."""

    def __init__(self, lost_in: int | None = None) -> None:
        super().__init__()
        self.lost_in = lost_in
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            # Where each place has weights of its own, Grad-CAM's mean gradients say nothing: with
            # a linear layer on the flattened features all its maps were 0.
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )

    @override
    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.net(images)
        return scores

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.current_epoch == self.lost_in and not self.trainer.sanity_checking:
            for module in self.net.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    module.reset_parameters()
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class Heard(pl.Callback):
    """Notes by drift when the alarm began to sound, and how near it was to it in each epoch."""

    def __init__(self, alarm: DriftAlarm) -> None:
        self.epochs: dict[str, list[int]] = {}
        self.scores: dict[str, dict[int, float]] = {}
        self.accuracy = 0.0
        self._alarm = alarm
        self._before: set[str] = set()

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = {_drift(tag) for tag in self._alarm.sounding}
        for name in sorted(now - self._before):
            self.epochs.setdefault(name, []).append(trainer.current_epoch)
        self._before = now
        scores: dict[str, list[float]] = {}
        for tag, score in trainer.callback_metrics.items():
            if tag.startswith("saliency_alarm/") and tag.rpartition("/")[2] in MEASURES:
                scores.setdefault(_drift(tag), []).append(float(score))
        for name, members in scores.items():
            # It sounds when so many are above 1.
            decides = sorted(members)[-self._alarm._rules.agree]
            self.scores.setdefault(name, {})[trainer.current_epoch] = decides
        self.accuracy = float(trainer.callback_metrics["val_acc"])

    def highest(self) -> dict[str, float]:
        """Return the highest score of each drift."""
        return {name: max(scores.values()) for name, scores in self.scores.items()}


def _drift(tag: str) -> str:
    """Return method and reference, such as "grad_cam/previous"."""
    return "/".join(tag.split("/")[1:3])


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return the scans of scikit-learn, enlarged to 16 x 16 pixels: 1,300 to train, 490 to test."""
    scans = load_digits()
    images = torch.from_numpy(scans.images).float()[:, None] / 16
    images = F.interpolate(images, size=(16, 16), mode="bilinear")
    labels = torch.from_numpy(scans.target)
    return TensorDataset(images[:1300], labels[:1300]), TensorDataset(images[1300:], labels[1300:])


def run(seed: int, epochs: int, lost_in: int | None = None, methods: Any = None) -> Heard:
    """Train, watched by the alarm with its defaults, and return what was heard.

    Args:
        seed: of weights and shuffling.
        epochs: explanations.
        lost_in: the epoch after which the weights are replaced by random ones; None for never.
        methods: all if None.
    """
    train, val = digits()
    torch.manual_seed(seed)
    chosen = methods or METHODS
    # In full, or the insensitive ones would be left out.
    names = [
        f"saliency_drift/{method.name}/{reference}/{measure}"
        for method in chosen
        for reference in ("previous", "pinned")
        for measure in ("top10_iou", "spearman", "ssim")
    ]
    alarm = DriftAlarm(names)
    heard = Heard(alarm)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[SaliencyCallback(chosen, samples=8), alarm, heard],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(lost_in), DataLoader(train, 32, shuffle=True), DataLoader(val, 490))
    return heard


def main(runs: int = 20, epochs: int = 30, lost_runs: int = 4) -> dict[str, Any]:
    """Print and return the false alarms of clean runs, and the alarms where weights are lost."""
    warnings.simplefilter("ignore")
    watched = [method for method in METHODS if method.name not in INSENSITIVE]
    false: dict[str, list[tuple[int, int]]] = {}
    highest: dict[str, float] = {}
    for seed in range(runs):
        heard = run(seed, epochs, methods=watched)
        for name, at in heard.epochs.items():
            false.setdefault(name, []).extend((seed, epoch) for epoch in at)
        for name, score in heard.highest().items():
            highest[name] = max(highest.get(name, 0.0), score)
        print(f"seed {seed}: accuracy {heard.accuracy:.3f}, alarms {heard.epochs}", flush=True)
    lost_in = epochs // 2
    lost = [run(seed, lost_in + 2, lost_in) for seed in range(lost_runs)]
    print(f"\n{'drift':44s} clean: highest score, alarms | weights lost in {lost_in}: score, heard")
    for name in lost[0].highest():
        at = [heard.scores[name][lost_in] for heard in lost]
        heard_in = sum(lost_in in heard.epochs.get(name, []) for heard in lost)
        clean = (
            f"{highest[name]:6.2f} {len(false.get(name, [])):3d}" if name in highest else " " * 10
        )
        print(f"{name:44s}{clean} | {min(at):6.2f} to {max(at):5.2f}, {heard_in} of {lost_runs}")
    count = sum(map(len, false.values()))
    print(f"\nFalse alarms in {runs} clean runs: {count}")
    return {
        "false": false,
        "highest": highest,
        "lost": [heard.epochs for heard in lost],
        "count": count,
    }


if __name__ == "__main__":
    main()
