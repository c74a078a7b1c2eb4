"""Draw every method on two photographs, explained for a network with the weights of ImageNet.

With what ``make test-compat`` installs::

    .venv-compat/bin/python tests/compat/methods_on_photographs.py docs/photographs.png
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import normalize, to_pil_image

sys.path.insert(0, str(Path(__file__).parents[1]))
from photographs import KNOWN, MEAN, STD, network, photographs

from lightning_saliency.attribution import METHODS
from lightning_saliency.errors import SaliencyError
from lightning_saliency.rendering import (
    Cell,
    ColorScale,
    grid,
    heatmap,
    overlay,
    to_bytes,
)
from lightning_saliency.rendering.pixels import fit_cell, resized

CHOSEN = ("chelsea", "coffee")
COLUMNS, SIDE = 6, 144
# As in the pictures of a run; the file is half as large.
STEPS = 40


def explain(images: Tensor) -> tuple[list[str], dict[str, Tensor]]:
    """Return what the network takes the images for, and by method its maps (N, 1, H, W)."""
    model, taken = network(), normalize(images, MEAN, STD)
    with torch.no_grad():
        predicted = model(taken).argmax(1)
    names = [KNOWN[name][int(index)] for name, index in zip(CHOSEN, predicted, strict=True)]
    maps = {}
    for kind in METHODS:
        method = replace(kind(), resize=True)
        try:
            found = method(model, taken, predicted).detach()
        except SaliencyError as error:
            print(f"{kind.name} is left out: {error}")
            continue
        # What all pixels have is no evidence.
        maps[kind.name] = found - found.amin((2, 3), keepdim=True) if method.has_offset else found
        print(kind.name, flush=True)
    return names, maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    images = photographs()[[list(KNOWN).index(name) for name in CHOSEN]]
    names, maps = explain(images)
    size = fit_cell((images.shape[2], images.shape[3]), SIDE, SIDE)

    def small(picture: Tensor) -> Tensor:
        return to_bytes(resized(picture[None], size)[0].float() / 255, STEPS)

    rows: list[list[Cell]] = []
    for index, name in enumerate(names):
        cells = [Cell(small(images[index]), name)]
        for method, saliency in maps.items():
            one = saliency[index : index + 1]
            heat = heatmap(one, ColorScale(), signed=bool((saliency < 0).any()))
            laid = overlay(images[index : index + 1], heat)[0]
            cells.append(Cell(small(laid), method, heat.fault[0]))
        rows += [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    picture = grid(rows, legends=[(ColorScale(), False), (ColorScale(), True)])
    to_pil_image(picture).save(options.output, optimize=True)
    print(f"Written to {options.output}.")


if __name__ == "__main__":
    main()
