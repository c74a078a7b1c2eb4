"""How near masks come to the best ones there are, on scores for which these are known.

The masks of extremal perturbation and those of TorchRay's 800 iterations, of the same kernel and
cut to exactly the same areas, with half the paper's width and with the whole.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchray_masks import torchray

from lightning_saliency.attribution import ExtremalPerturbation

sys.path.insert(0, str(Path(__file__).parents[1]))
from known_optimum import SIDE, KnownScore, cut, pairs, picture

Finder = Callable[[KnownScore, tuple[float, ...]], Tensor]
"""Returns masks (A, 48, 48) of a score and some areas."""

LENGTHS = {"half the paper's width": (1, 3.0), "the paper's": (2, 6.0)}


def find(score: KnownScore, areas: tuple[float, ...], **settings: Any) -> Tensor:
    """Return the masks of extremal perturbation."""
    reward = "simple" if score.rival is None else "contrastive"
    method = ExtremalPerturbation(
        areas, "fade", variant=score.variant, reward_func=reward, **settings
    )
    return method.masks(score.model(), picture(), 1).masks[0]


def find_by_torchray(
    score: KnownScore,
    areas: tuple[float, ...],
    step: int,
    sigma: float,
    max_iter: int = 800,
    scale: float = 1.0,
) -> Tensor:
    """Return the masks of TorchRay, of areas on the image, for a score times a scale."""
    plain = torchray.simple_reward if score.rival is None else torchray.contrastive_reward

    def reward(*given: Any, **named: Any) -> Tensor:
        value: Tensor = plain(*given, **named)
        return scale * value

    canvas = torchray.MaskGenerator((SIDE, SIDE), step, sigma).shape_out
    share = SIDE * SIDE / (canvas[0] * canvas[1])
    masks, _ = torchray.extremal_perturbation(
        score.model(),
        picture(),
        1,
        areas=[area * share for area in areas],
        perturbation="fade",
        max_iter=max_iter,
        variant=score.variant,
        reward_func=reward,
        step=step,
        sigma=sigma,
        # Half of the pictures would be mirrored, with their parts elsewhere.
        jitter=False,
    )
    return masks[:, 0]


def shares(finder: Finder) -> tuple[dict[tuple[str, float], float], float]:
    """Return how much of the optimum is reached for each score and area, and the CPU seconds."""
    areas: Mapping[KnownScore, list[float]] = defaultdict(list)
    for score, area in pairs():
        areas[score].append(area)
    found = {}
    start = time.process_time()
    for score, some in areas.items():
        masks = finder(score, tuple(some))
        for area, mask in zip(some, masks, strict=True):
            found[score.name, area] = score.share(cut(mask, area), area)
    return found, time.process_time() - start


def alone(finder: Finder) -> Finder:
    """Return a finder that searches for each area by itself, so that no mask is grown."""

    def each(score: KnownScore, areas: tuple[float, ...]) -> Tensor:
        return torch.cat([finder(score, (area,)) for area in areas])

    return each


def main(quick: bool = False) -> dict[str, Any]:
    """Print and return the tables; ``quick`` leaves TorchRay out."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    finders: dict[str, Finder] = {
        "default": find,
        "default, each area alone": alone(find),
        "8 rounds": partial(find, rounds=8),
    }
    for name, (step, sigma) in LENGTHS.items():
        if (step, sigma) != (1, 3.0):
            finders[f"default, {name} width"] = partial(find, step=step)
        if not quick:
            theirs = partial(find_by_torchray, step=step, sigma=sigma)
            finders[f"TorchRay, {name}"] = theirs
            # The scores go to 10; its penalty of the area is the same whatever they go to.
            finders[f"TorchRay, {name}, scores x 10"] = partial(theirs, scale=10.0)
    print(f"\nshare of the optimum on {len(pairs())} pairs of a score and an area")
    found = {}
    for name, finder in finders.items():
        by_pair, seconds = shares(finder)
        found[name] = {f"{score}, {area:g}": share for (score, area), share in by_pair.items()}
        values = list(by_pair.values())
        lowest = sorted((share, *pair) for pair, share in by_pair.items())[:4]
        print(
            f"  {name:40s} mean {statistics.mean(values):.3f}, below 0.9: "
            f"{sum(value < 0.9 for value in values)}, {seconds:.0f} CPU s; lowest: "
            + "; ".join(f"{score} {area:g} {share:.2f}" for share, score, area in lowest),
            flush=True,
        )
    return found


if __name__ == "__main__":
    main("--quick" in sys.argv)
