"""Explain one picture with every method, for the two digits in it, and draw the maps side by side.

Takes about a minute on two cores, and downloads nothing::

    python examples/compare_methods.py --output methods.png
"""

import argparse
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from lightning_saliency.attribution import METHODS
from lightning_saliency.attribution.pointing import PointingSetup
from lightning_saliency.benchmark import get_example_data
from lightning_saliency.rendering import (
    Cell,
    ColorScale,
    displayable,
    grid,
    heatmap,
    overlay,
)

# The example network has the features of VGG16 under the same names.
SETUP = PointingSetup("features.29", "features.9", "classifier.4", areas=(0.03,))
COLUMNS = 5


def draw_rows(picture: Tensor, name: str, maps: dict[str, Tensor]) -> list[list[Cell]]:
    """Return rows of the picture and the methods' maps laid over it."""
    cells = [Cell(picture[0], name)]
    for method, saliency in maps.items():
        heat = heatmap(saliency, ColorScale(), signed=bool((saliency < 0).any()))
        cells.append(Cell(overlay(picture, heat)[0], method, heat.fault[0]))
    return [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("methods.png"))
    options = parser.parse_args()

    model, image, *categories = get_example_data()
    rows = []
    for category in categories:
        maps = {}
        for kind in METHODS:
            print(f"category {category}: {kind.name}")
            method = replace(kind.for_pointing_game(SETUP), resize=True)
            saliency = method(model, image, category)
            # What all pixels have is no evidence.
            maps[kind.name] = saliency - saliency.amin() if method.has_offset else saliency
        rows += draw_rows(displayable(image), f"digit {category}", maps)
    legends = [(ColorScale(), False), (ColorScale(), True)]
    to_pil_image(grid(rows, legends=legends)).save(options.output)
    print(f"Written to {options.output}.")


if __name__ == "__main__":
    main()
