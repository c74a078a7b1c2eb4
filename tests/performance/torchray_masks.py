"""Masks by the installed TorchRay, 800 iterations each: computed once, with their CPU seconds.

python tests/performance/torchray_masks.py scaled small 16 0 1 2
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from digit_networks import CACHE, digits, trained
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchray.attribution import extremal_perturbation as torchray

__all__ = ["AREAS", "SETTINGS", "TorchRayMasks", "run", "torchray_masks"]

AREAS = (0.05, 0.1)
ITERATIONS = 800

SETTINGS = {
    # As it is called: areas of its canvas, a blur of 20 pixels.
    "default": (7, 21, 20.0),
    # Its lengths in proportion to the image, and the areas that on its canvas are those on the
    # image: as well as TorchRay can be called for pictures of 64 pixels.
    "scaled": (2, 6, 20 * 64 / 224),
}


@dataclass(frozen=True)
class TorchRayMasks:
    """Masks (N, A, H, W), the pictures' CPU seconds (N,), and when they were taken."""

    masks: Tensor
    seconds: Tensor
    date: str


def run(
    setting: str, model: nn.Module, image: Tensor, target: int, iterations: int = ITERATIONS
) -> Tensor:
    """Return the masks (A, H, W) of one image (1, C, H, W)."""
    step, sigma, max_blur = SETTINGS[setting]
    areas = list(AREAS)
    if setting == "scaled":
        size = tuple(image.shape[2:])
        canvas = torchray.MaskGenerator(size, step, sigma).shape_out
        share = size[0] * size[1] / (canvas[0] * canvas[1])
        areas = [area * share for area in areas]
    blur: Any = partial(torchray.Perturbation, max_blur=max_blur)
    with patch.object(torchray, "Perturbation", blur):
        masks, _ = torchray.extremal_perturbation(
            model, image, target, areas=areas, max_iter=iterations, step=step, sigma=sigma
        )
    return masks[:, 0]


def torchray_masks(
    setting: str, network: str, seed: int, samples: int, again: bool = False
) -> TorchRayMasks:
    """Return the masks of the first pictures of a seed; those that were kept are not run again.

    Args:
        setting: one of ``SETTINGS``.
        network: one of ``NETWORKS``.
        seed: of the network and of the pictures.
        samples: how many pictures.
        again: run all of them, and keep the new ones.
    """
    model, _ = trained(network, seed)
    images, labels, _ = digits("val", samples, seed)
    path = CACHE / f"torchray_{setting}_{network}_{seed}.pt"
    kept: dict[int, tuple[Tensor, float, str]] = {}
    if path.exists() and not again:
        kept = torch.load(path, weights_only=True)
    for i in range(samples):
        if i in kept:
            continue
        start = time.process_time()
        masks = run(setting, model, images[i : i + 1], int(labels[i]))
        kept[i] = (masks, time.process_time() - start, time.strftime("%Y-%m-%d"))
        torch.save(kept, path)
    found = [kept[i] for i in range(samples)]
    return TorchRayMasks(
        torch.stack([masks for masks, _, _ in found]),
        torch.tensor([seconds for _, seconds, _ in found]),
        max(date for _, _, date in found),
    )


def main() -> None:
    """Compute what the command line asks for: setting, network, samples of each seed, seeds."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    setting, network, samples, *seeds = sys.argv[1:]
    for seed in map(int, seeds):
        _, accuracy = trained(network, seed)
        print(f"{network}, seed {seed}: accuracy {accuracy:.3f}", flush=True)
        found = torchray_masks(setting, network, seed, int(samples))
        print(f"  {setting}: {found.seconds.sum():.0f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
