"""How many masks RISE needs to come as near to its limit as a plain mean over many masks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from digit_networks import digits, trained
from timing import Verdict, table, verdict
from torch import Tensor, nn

from lightning_saliency.attribution.rise_estimation.estimators import (
    MaskAverage,
    MaskEstimator,
    rank_correlation,
)
from lightning_saliency.attribution.rise_estimation.link_function import LinkFunction
from lightning_saliency.attribution.rise_estimation.presets import ESTIMATORS, RISEPreset
from lightning_saliency.attribution.rise_estimation.regression import MaskRegression
from lightning_saliency.image.random_mask import MaskBlock
from lightning_saliency.network.batching import batches_for
from lightning_saliency.network.masked_scores import masked_scores
from lightning_saliency.network.score import all_class_scores

__all__ = ["Options", "bench_masks"]

KINDS = ("probability", "sigmoid", "log_probability", "logit")
GOAL = 0.95
WANTED = {"probability": 5.0, "sigmoid": 5.0, "log_probability": 20.0, "logit": 20.0}


@dataclass(frozen=True)
class Options:
    """How large the comparison is: images, masks of the reference and of the plain estimator."""

    images: int = 8
    reference: int = 32768
    largest: int = 8192
    seeds: int = 2


Curve = dict[int, float]
"""Correlations by number of masks."""

Row = dict[str, Any]


def bench_masks(network: str, options: Options) -> dict[str, Any]:
    """Compare estimators at equal numbers of masks with one of very many masks.

    Args:
        network: ``"small"`` or ``"resnet18"``.
        options: how large the comparison is.

    Returns:
        The rows of the table, and what became of the targets.
    """
    model, accuracy = trained(network)
    images, labels, _ = digits("val", options.images)

    def scored(preset: RISEPreset | None, count: int, seed: int) -> Scored:
        return all_scores(model, images, labels, blocks_of(preset, images, count, seed))

    average = MaskAverage()
    for block, scores in scored(None, options.reference, 10_000):
        average.add(scores, block)
    reference = average.mean(True).flatten(2)
    halves = dict(zip(KINDS, average.split_half(True).mean(0).tolist(), strict=True))
    print(
        f"\n{network}: accuracy {accuracy:.3f}, {options.images} images, reference of "
        f"{options.reference:,} masks (its own halves: "
        + ", ".join(f"{k} {half:.3f}" for k, half in halves.items())
        + ")\n  mean Spearman correlation with it, in brackets: foretold by the split half"
    )
    many = [n for n in (128 * 2**i for i in range(12)) if n <= options.largest]
    few = [n for n in many if n <= 1024]
    plain = curves(scored("paper", many[-1], 0), reference, many, [MaskAverage()], False)
    rows = rows_of("plain", [plain])
    runs: dict[str, list[Told]] = {"balanced": [], "fitted": []}
    for seed in range(options.seeds):
        known = list(scored(None, few[-1], seed))
        fits: list[MaskEstimator] = [MaskRegression(LinkFunction(kind)) for kind in KINDS]
        runs["balanced"].append(curves(iter(known), reference, few, [MaskAverage()], True))
        runs["fitted"].append(curves(iter(known), reference, few, fits, True))
    for title, told in runs.items():
        rows += rows_of(title, told)
    rows.sort(key=lambda row: KINDS.index(row["score"]))
    for row in rows:
        print(as_text(row))
    verdicts = verdicts_of(network, rows, options.largest)
    print(table(f"times fewer masks to a correlation of {GOAL}, plain / fitted", verdicts))
    return {"rows": rows, "verdicts": verdicts, "halves": halves, "accuracy": accuracy}


def rows_of(title: str, told: list[Told]) -> list[Row]:
    """Return a row for each kind of score: means over runs and images."""
    rows = []
    for k, kind in enumerate(KINDS):
        # NaN where there are no two halves.
        means = {n: torch.stack([t[n][:, :, k].nanmean(1) for t in told]).mean(0) for n in told[0]}
        true: Curve = {n: float(pair[0]) for n, pair in means.items()}
        foretold: Curve = {n: float(pair[1]) for n, pair in means.items()}
        row = {"score": kind, "estimator": title, "correlation": true, "foretold": foretold}
        rows.append({**row, "masks_to_goal": needed(true)})
    return rows


def as_text(row: Row) -> str:
    cells = [f"{n}: {c:.3f} ({row['foretold'][n]:.2f})" for n, c in row["correlation"].items()]
    goal = f"to {GOAL}: {row['masks_to_goal']:5.0f}"
    return f"  {row['score']:16s}{row['estimator']:9s}{goal}  {'  '.join(cells)}"


def verdicts_of(network: str, rows: list[Row], largest: int) -> list[Verdict]:
    goals = {(row["score"], row["estimator"]): row["masks_to_goal"] for row in rows}
    found = []
    for kind in KINDS:
        # Where the plain estimator did not get there, it takes more than it was given.
        plain = min(goals[kind, "plain"], float(largest))
        times = plain / goals[kind, "fitted"]
        row = verdict(f"{network} {kind}", times, WANTED[kind], at_least=True)
        sign = ">" if goals[kind, "plain"] > largest else ""
        found.append({**row, "shown": f"{sign}{times:.1f}"})
    return found


Scored = Iterator[tuple[MaskBlock, Tensor]]


@torch.no_grad()
def all_scores(
    model: nn.Module, images: Tensor, labels: Tensor, blocks: Iterator[MaskBlock]
) -> Scored:
    """Yield blocks with the score of each kind for each image's label, (N, kinds, M)."""

    def kinds(output: object, owner: Tensor) -> Tensor:
        scores = [all_class_scores(output, kind, len(owner)) for kind in KINDS]
        return torch.stack([s.gather(1, labels[owner][:, None])[:, 0] for s in scores], 1)

    batches = batches_for("auto", images)
    for block in blocks:
        yield block, masked_scores(model, images, block.masks, kinds, batches)


def blocks_of(
    preset: RISEPreset | None, images: Tensor, count: int, seed: int
) -> Iterator[MaskBlock]:
    estimator = ESTIMATORS[preset]
    return estimator.masks(estimator.upsampling(images, 7), count, 0.5, seed)


Told = dict[int, Tensor]
"""By number of masks the correlation with the reference, true and foretold, (2, N, kinds)."""


def curves(
    scored: Scored,
    reference: Tensor,
    numbers: list[int],
    gatherers: list[MaskEstimator],
    centred: bool,
) -> Told:
    """Return how near the maps come, with one gatherer for each kind of score, or one for all."""
    found: Told = {}
    for block, scores in scored:
        for gatherer, some in zip(gatherers, scores.chunk(len(gatherers), 1), strict=True):
            gatherer.add(some, block)
        if gatherers[0].num_masks not in numbers:
            continue
        maps = torch.cat([gatherer.mean(centred) for gatherer in gatherers], 1)
        true = rank_correlation(maps.flatten(2), reference)
        half = torch.cat([gatherer.split_half(centred) for gatherer in gatherers], 1).clamp(min=0)
        found[gatherers[0].num_masks] = torch.stack([true, (2 * half / (1 + half)).sqrt()])
    return found


def needed(curve: dict[int, float]) -> float:
    """Return how many masks reach the goal, between the measured numbers along log N."""
    numbers = sorted(curve)
    for low, high in pairwise(numbers):
        if curve[low] < GOAL <= curve[high]:
            share = (GOAL - curve[low]) / (curve[high] - curve[low])
            return math.exp(math.log(low) + share * math.log(high / low))
    return float(numbers[0]) if curve[numbers[0]] >= GOAL else math.inf
