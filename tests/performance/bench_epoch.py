"""What whole explanations cost beside an epoch of training, and how that grows with the samples."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from digit_networks import NETWORKS
from timing import table, verdict
from whole import explain_all

from lightning_saliency.attribution import (
    RISE,
    DeconvNet,
    ExcitationBackprop,
    ExtremalPerturbation,
    GradCAM,
    Gradient,
    GuidedBackprop,
    LinearApprox,
)
from lightning_saliency.callbacks.explanation import Method
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.settings import methods_of

SIDE, BATCH, PICTURES, SAMPLES = 64, 32, 10_000, 16
AREAS = (0.025, 0.05, 0.1, 0.2)


class Group(NamedTuple):
    """What is explained, the share of an epoch that it may take, and how often it is timed."""

    methods: list[Method]
    share: float
    # Of an explanation that is done within a second, one alone says little.
    rounds: int = 5


GROUPS = {
    "gradient, guided, DeconvNet, Grad-CAM, linear": Group(
        [
            Gradient(),
            GuidedBackprop(),
            DeconvNet(),
            GradCAM("layer4"),
            LinearApprox("layer4"),
        ],
        0.003,
    ),
    "Grad-CAM": Group([GradCAM("layer4")], 0.003),
    "excitation backprop": Group([ExcitationBackprop()], 0.003),
    "RISE": Group([RISE()], 0.15, 1),
    "extremal perturbation, 4 areas": Group([ExtremalPerturbation(areas=AREAS)], 0.12, 1),
}


def main(quick: bool = False) -> dict[str, Any]:
    """Measure; print and return the tables."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = NETWORKS["resnet18"][0]()
    seconds, steps = {}, []
    for title, group in GROUPS.items():
        if quick and title.startswith("extremal"):
            continue
        spent = []
        for _ in range(group.rounds):
            # Between the explanations, so that a slow minute of the machine meets both.
            steps += [_train_step(model) for _ in range(2 if quick else 5)]
            spent.append(_explain(model.eval(), group.methods, SAMPLES))
        steps += [_train_step(model) for _ in range(2 if quick else 5)]
        seconds[title] = statistics.median(spent)
    model.eval()
    epoch = statistics.median(steps) * PICTURES / BATCH
    shares = {title: spent / epoch for title, spent in seconds.items()}
    rows = [verdict(title, share, GROUPS[title].share, unit="%") for title, share in shares.items()]
    title = (
        f"share of an epoch of {PICTURES:,} pictures ({epoch:.0f} CPU s, from {len(steps)} steps): "
        f"ResNet-18, {SIDE} px, {SAMPLES} samples explained once"
    )
    print(table(title, rows))
    counts = (1, 4, 16) if quick else (1, 4, 16, 64)
    return {
        "epoch_seconds": epoch,
        "rows": rows,
        "shares": shares,
        "growth": growth(model, counts),
    }


def growth(model: torch.nn.Module, counts: Sequence[int]) -> dict[str, dict[int, float]]:
    """Measure and print the CPU seconds for each number of samples, and for one area and four."""
    # A part of the masks and of the iterations shows the same.
    groups: dict[str, list[Method]] = {
        "five gradient methods": GROUPS["gradient, guided, DeconvNet, Grad-CAM, linear"].methods,
        "excitation backprop": [ExcitationBackprop()],
        "RISE, 128 masks": [RISE(128)],
        "extremal, 1 area, 2 iterations": [ExtremalPerturbation(areas=AREAS[:1], max_iter=2)],
        "extremal, 4 areas, 2 iterations": [ExtremalPerturbation(areas=AREAS, max_iter=2)],
    }
    print("\nCPU s for a number of samples (s a sample), ResNet-18, 64 px")
    print(f"  {'':32s}" + "".join(f"{count:>18d}" for count in counts))
    found: dict[str, dict[int, float]] = {}
    for title, methods in groups.items():
        found[title] = {count: _explain(model, methods, count) for count in counts}
        cells = [f"{s:.2f} ({s / count:.3f})" for count, s in found[title].items()]
        print(f"  {title:32s}" + "".join(f"{cell:>18s}" for cell in cells), flush=True)
    return found


def _train_step(model: torch.nn.Module) -> float:
    """Return the CPU seconds of one step of plain training."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images, labels = torch.randn(BATCH, 3, SIDE, SIDE), torch.arange(BATCH) % 10
    start = time.process_time()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.process_time() - start


def _explain(model: torch.nn.Module, methods: list[Method], count: int) -> float:
    """Return the CPU seconds of an explanation as the callback makes it; the drawing is not in."""
    samples = SampleSet(torch.randn(count, 3, SIDE, SIDE), torch.arange(count) % 10)
    start = time.process_time()
    explain_all(model, methods_of(methods), samples)
    return time.process_time() - start
