"""One batch of the pointing game: from pictures to results."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_saliency.benchmark.pointing_data import PointingData
from lightning_saliency.benchmark.pointing_recipes import Recipe
from lightning_saliency.benchmark.pointing_results import Game
from lightning_saliency.evaluation.scenes import SceneBatch
from lightning_saliency.metrics import (
    degenerate,
    energy_inside,
    point_hit,
    rank_accuracy,
    region_area,
    region_mass,
)
from lightning_saliency.metrics.pointing_game import largest_point


def play(
    recipe: Recipe,
    module: nn.Module,
    data: PointingData,
    batch: SceneBatch,
    positions: Sequence[int],
    batch_size: int,
) -> Mapping[int, list[Game]]:
    """Explain every class of some pictures, and see where the maps point.

    Args:
        recipe: the method.
        module: the model.
        data: where the pictures are from.
        batch: the pictures.
        positions: which of them.
        batch_size: the largest number of maps made at once.

    Returns:
        By position the games, in the order of the picture's classes.
    """
    pairs = [
        (position, order, label)
        for position in positions
        for order, label in enumerate(data.annotations[batch.places[position]].classes)
    ]
    games: dict[int, list[Game]] = defaultdict(list)
    for start in range(0, len(pairs), batch_size):
        chunk = pairs[start : start + batch_size]
        masks = torch.stack([batch.masks[position][order] for position, order, _ in chunk])[:, None]
        labels = [label for _, _, label in chunk]
        columns = (
            _center(masks)
            if recipe.method is None
            else _explained(recipe, module, batch.images[[p for p, _, _ in chunk]], masks, labels)
        )
        hits = point_hit(columns["point"], masks, data.tolerance) & ~columns["degenerate"].bool()
        shares = zip(*(columns[name].tolist() for name in ("energy", "mass", "rank")), strict=True)
        others = (hits, columns["point"], region_area(masks), columns["degenerate"])
        # One transfer from the device for each column.
        rows = zip(chunk, shares, *(column.tolist() for column in others), strict=True)
        for (position, _, label), known, hit, (row, column), area, missing in rows:
            difficult = label in data.annotations[batch.places[position]].difficult
            energy, mass, rank = map(_number, known)
            game = Game(label, difficult, hit, row, column, energy, mass, rank, area, missing)
            games[position].append(game)
    return games


def _explained(
    recipe: Recipe, module: nn.Module, images: Tensor, masks: Tensor, labels: Sequence[int]
) -> dict[str, Tensor]:
    size = (masks.shape[2], masks.shape[3])
    maps = recipe.maps(module, images, labels, size)
    energy = energy_inside(maps, masks)
    return {
        "point": largest_point(maps).float(),
        "degenerate": degenerate(maps),
        "energy": energy,
        # Without negative values they are the same.
        "mass": region_mass(maps, masks) if bool((maps < 0).any()) else energy,
        "rank": rank_accuracy(maps, masks),
    }


def _center(masks: Tensor) -> dict[str, Tensor]:
    """Return the middle of the pictures as points, and no maps."""
    count = len(masks)
    middle = torch.tensor([masks.shape[2] / 2, masks.shape[3] / 2], device=masks.device)
    none = torch.full((count,), math.nan)
    return {
        "point": middle.expand(count, 2),
        "degenerate": torch.zeros(count, dtype=torch.bool, device=masks.device),
        **dict.fromkeys(("energy", "mass", "rank"), none),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
