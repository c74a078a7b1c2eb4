"""Which method finds the object in which kind of network: pointing on pictures of two digits.

python tests/performance/bench.py pointing_networks

Three seeds of three small networks, each of which is trained for some minutes. A picture shows two
digits over clutter, neither of them in the middle, and each is explained in turn.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from digit_networks import trained
from torch import Tensor, nn

from lightning_saliency.attribution import METHODS, AttnLRP, AttributionMethod
from lightning_saliency.attribution.pointing import PointingSetup
from lightning_saliency.benchmark.cluttered_digits import ClutteredDigits
from lightning_saliency.benchmark.pointing_recipes import Recipe
from lightning_saliency.errors import SaliencyError
from lightning_saliency.metrics import energy_inside, point_hit, pointing_hit

NETWORKS = {"small": "ReLU", "gated": "SiLU and gates", "vit": "vision transformer"}
SEEDS = 3
SIZE = 64
# What 15 pixels are to a photograph of 500.
TOLERANCE = 2
BATCH = 20


@dataclass(frozen=True)
class Pictures:
    """Pictures of two digits.

    Attributes:
        images: (N, 3, 64, 64), as the networks take them.
        labels: (N,), of the digit that is explained.
        masks: (N, 1, 64, 64), bool: its strokes.
    """

    images: Tensor
    labels: list[int]
    masks: Tensor


def pictures(count: int) -> Pictures:
    """Return pictures of which neither digit is hit from the middle, once for each digit.

    Args:
        count: how many pictures.
    """
    data = ClutteredDigits("val", 10 * count, num_digits=2, size=SIZE)
    middle = torch.full((2, 2), SIZE / 2)
    rows: list[tuple[Tensor, int, Tensor]] = []
    for image, labels, masks in (data[i] for i in range(len(data))):
        if not point_hit(middle, masks[:, None], TOLERANCE).any():
            both = zip(labels.tolist(), masks[:, None], strict=True)
            rows += [((image - 0.5) / 0.25, label, mask) for label, mask in both]
        if len(rows) == 2 * count:
            break
    images, labels, masks = zip(*rows, strict=True)
    return Pictures(torch.stack(images), list(labels), torch.stack(masks))


def methods() -> Iterator[tuple[str, Recipe]]:
    """Yield name and recipe of every method."""
    setup = PointingSetup(areas=(0.02, 0.04))
    for kind in METHODS:
        yield kind.__name__, _recipe(kind.for_pointing_game(setup))
        if kind is AttnLRP:
            with_gamma = AttnLRP(conv_gamma=0.25, linear_gamma=0.05)
            yield "AttnLRP, gamma", _recipe(with_gamma)


def _recipe(method: AttributionMethod) -> Recipe:
    style = method.pointing
    return Recipe(method.name, method, style.smooth, style.smooth_side, style.square, style.whole)


def scores(recipe: Recipe, model: nn.Module, data: Pictures) -> tuple[float, float] | None:
    """Return hit rate and energy in %; None if the method does not apply to the network.

    Args:
        recipe: of the method.
        model: in eval mode.
        data: the pictures.
    """
    hits, energies = [], []
    method = recipe.method
    try:
        assert method is not None
        recipe = replace(recipe, method=method.prepare(model, data.images[:1], data.labels[:1]))
    except SaliencyError:
        return None
    for start in range(0, len(data.labels), BATCH):
        part = slice(start, start + BATCH)
        maps = recipe.maps(model, data.images[part], data.labels[part], (SIZE, SIZE))
        hits.append(pointing_hit(maps, data.masks[part], TOLERANCE).float())
        energies.append(energy_inside(maps, data.masks[part]))
    return 100 * float(torch.cat(hits).mean()), 100 * float(torch.cat(energies).nanmean())


def markdown(found: dict[str, dict[str, list[tuple[float, float] | None]]]) -> str:
    """Return the table of the documentation.

    Args:
        found: for each method and network the scores of the seeds.
    """
    lines = ["| method |" + "".join(f" {words} |" for words in NETWORKS.values())]
    lines.append("| --- |" + " ---: |" * len(NETWORKS))
    for method, of in found.items():
        cells = []
        for name in NETWORKS:
            known = [pair for pair in of.get(name, []) if pair is not None]
            if not known:
                cells.append("does not apply")
                continue
            hits, energies = zip(*known, strict=True)
            least, most = min(hits), max(hits)
            cells.append(
                f"{statistics.mean(hits):.0f} ({least:.0f} to {most:.0f}), "
                f"{statistics.mean(energies):.0f}"
            )
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    quick: bool = False,
    count: int = 50,
    networks: Sequence[str] = tuple(NETWORKS),
    seeds: int = SEEDS,
) -> dict[str, object]:
    """Print the table; return its figures."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = pictures(5 if quick else count)
    found: dict[str, dict[str, list[tuple[float, float] | None]]] = {}
    accuracies: dict[str, list[float]] = {name: [] for name in NETWORKS}
    for name in networks:
        for seed in range(1 if quick else seeds):
            model, accuracy = trained(name, seed)
            accuracies[name].append(accuracy)
            for method, recipe in methods():
                torch.manual_seed(seed)
                pair = scores(recipe, model, data)
                found.setdefault(method, {}).setdefault(name, []).append(pair)
                print(f"{name} {seed} ({accuracy:.1%}) {method}: {pair}", flush=True)
    print(f"\n{markdown(found)}\n\naccuracies: {accuracies}", flush=True)
    return {"accuracies": accuracies, "scores": found}


if __name__ == "__main__":
    main()
