"""More rounds of a search, for the masks that still gain from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightning_saliency.attribution.mask_search.objective import MaskProblem, PictureRewards
from lightning_saliency.attribution.mask_search.refinement import climb, evaluate_grid
from lightning_saliency.image.exact_area import exact_area

_ITERATIONS = 8
_CONTRASTS = (15.0, 60.0)
# A mask that gained less, as a share of the way between no mask and a full one, is done.
_LEAST_GAIN = 0.01


def search_on(
    problem: MaskProblem, grids: Sequence[Tensor], rewards: PictureRewards, rounds: int
) -> Tensor:
    """Go on from the best grid of each mask, in rounds of eight iterations at its final area.

    A round starts with grayer masks and longer steps than the last one ended with, so that parts of
    a mask can still move. Masks that hardly gained from a round have no more; the host waits for
    the device to learn which these are.

    Args:
        problem: that the search was for.
        grids: one or more (N * A, rows, columns), from the search.
        rewards: of the pictures.
        rounds: how many at most.

    Returns:
        (N * A, rows, columns), of the best masks.
    """
    grid, reward = _best(problem, grids, rewards)
    worth = _LEAST_GAIN * _range(problem, rewards, grid)
    for index, area in enumerate(problem.areas):
        images = torch.arange(len(reward), device=grid.device)
        for _ in range(rounds):
            part = replace(problem, areas=(area,), levels=problem.levels[images])
            chosen = rewards.select(images)
            found, its = _round(part, grid[images, index], chosen)
            gain = its - reward[images, index]
            better = images[gain > 0]
            grid[better, index], reward[better, index] = found[gain > 0], its[gain > 0]
            images = images[gain > worth[images]]
            if not len(images):
                break
    return grid.flatten(0, 1)


def _round(problem: MaskProblem, grid: Tensor, rewards: PictureRewards) -> tuple[Tensor, Tensor]:
    """Return grids (N, rows, columns) after a round, and the rewards (N,) of their masks."""

    def masks_of(grid: Tensor, contrast: float) -> Tensor:
        areas = grid.new_tensor(problem.areas).expand(len(grid))
        return exact_area(problem.smooth_mask(grid), areas, contrast)

    found = climb(problem, grid, masks_of, _CONTRASTS, _ITERATIONS, rewards)
    best, reward = _best(problem, found, rewards)
    return best[:, 0], reward[:, 0]


def _best(
    problem: MaskProblem, grids: Sequence[Tensor], rewards: PictureRewards
) -> tuple[Tensor, Tensor]:
    """Return the grids (N, A, rows, columns) of the best masks, and their rewards (N, A)."""
    found = torch.stack([evaluate_grid(problem, grid, rewards).rewards for grid in grids])
    shape = (-1, len(problem.areas), *problem.smooth_mask.grid_size)
    of_each = torch.stack([grid.reshape(shape) for grid in grids])
    best = of_each.take_along_dim(found.argmax(0)[None, :, :, None, None], 0)[0]
    return best, found.amax(0)


def _range(problem: MaskProblem, rewards: PictureRewards, like: Tensor) -> Tensor:
    """Return how far the rewards (N,) of no mask and of a full one are apart."""
    ends = like.new_zeros(len(problem.levels), 2, *problem.smooth_mask.size)
    ends[:, 1] = 1
    found, _ = rewards.evaluate(problem.pictures(ends))
    return found.reshape(-1, 2).diff(dim=1)[:, 0].abs()
