"""The end of a search for masks: the best of the last iterations, larger masks grown from smaller.

At the end of a search two things are known that were not before: whether an earlier mask was better
than the last one, and whether the mask of a smaller area did better than that of a larger one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_saliency.attribution.mask_search.objective import MaskProblem, PictureRewards
from lightning_saliency.image.exact_area import exact_area

# For how many iterations a mask of one area is grown to the next, and how its contrast rises.
_GROWTH = 8
_GROWTH_CONTRASTS = (8.0, 60.0)
# In the last third of them the masks are so close to the final ones that their rewards can be
# compared.
_COMPARABLE = 0.7

# A larger mask is good enough if its reward is beyond the smaller one's by this share of it. Masks
# that differ by less may change places when they are cut to 0 and 1.
_MARGIN = 0.02

# Of the masks that are returned: few pixels of them are gray.
_LAST_CONTRAST = 250.0


class BestGrids:
    """The grids of the best masks so far; the host does not wait for the device.

    Args:
        grid: (B, rows, columns), what is kept until :meth:`see` was called.
    """

    def __init__(self, grid: Tensor) -> None:
        self.grid = grid.detach().clone()
        self._reward = self.grid.new_full((len(grid),), -math.inf)

    def see(self, grid: Tensor, reward: Tensor) -> None:
        """Keep the grids that are better than all before.

        Args:
            grid: like that of the beginning.
            reward: (B,), of their masks.
        """
        better = reward > self._reward
        self._reward = torch.where(better, reward, self._reward)
        self.grid = torch.where(better[:, None, None], grid.detach(), self.grid)


class EvaluatedMasks(NamedTuple):
    """Masks (N, A, H, W) and their rewards (N, A)."""

    masks: Tensor
    rewards: Tensor

    def or_better(self, other: EvaluatedMasks) -> EvaluatedMasks:
        """Return the better one of each pair; of two that are equal, this one."""
        better = other.rewards > self.rewards
        return EvaluatedMasks(
            torch.where(better[:, :, None, None], other.masks, self.masks),
            torch.where(better, other.rewards, self.rewards),
        )


def refine_masks(problem: MaskProblem, grids: Sequence[Tensor], rewards: PictureRewards) -> Tensor:
    """Return the best masks of each area, almost without gray.

    The search for a large mask may miss what the one for a smaller mask found. So a mask that does
    hardly better than the smaller one of the same image, or worse, is compared with that one grown
    to its area, and the better one kept. The host waits for the device to learn which these are,
    once for each area.

    Args:
        problem: that the search was for.
        grids: one or more (N * A, rows, columns); each mask is made of the best of them.
        rewards: of the pictures.

    Returns:
        (N, A, H, W)
    """
    found = [evaluate_grid(problem, grid, rewards) for grid in grids]
    masks, best = reduce(EvaluatedMasks.or_better, found)
    for larger in range(1, len(problem.areas)):
        enough = best[:, larger - 1] + _MARGIN * best[:, larger - 1].abs()
        # Not ~(>=): where a reward is NaN there is nothing to gain.
        (images,) = (best[:, larger] < enough).nonzero(as_tuple=True)
        if not len(images):
            continue
        part, some = replace(problem, levels=problem.levels[images]), rewards.select(images)
        here = images, slice(larger, larger + 1)
        grown = _grow(part, masks[images, larger - 1], larger, some)
        found = [_evaluated(part, larger_masks[:, None], some) for larger_masks in grown]
        old = EvaluatedMasks(masks[here], best[here])
        masks[here], best[here] = reduce(EvaluatedMasks.or_better, found, old)
    return masks


def evaluate_grid(problem: MaskProblem, grid: Tensor, rewards: PictureRewards) -> EvaluatedMasks:
    """Return the masks of grids, almost without gray, and their rewards.

    Args:
        problem: that the search was for.
        grid: (N * A, rows, columns).
        rewards: of the pictures.
    """
    areas = grid.new_tensor(problem.areas * len(problem.levels))
    masks = exact_area(problem.smooth_mask(grid), areas, _LAST_CONTRAST)
    masks = masks.reshape(len(problem.levels), -1, *problem.smooth_mask.size)
    return _evaluated(problem, masks, rewards)


def _evaluated(problem: MaskProblem, masks: Tensor, rewards: PictureRewards) -> EvaluatedMasks:
    reward, _ = rewards.evaluate(problem.pictures(masks))
    return EvaluatedMasks(masks, reward.reshape(masks.shape[:2]))


def _grow(
    problem: MaskProblem, masks: Tensor, larger: int, rewards: PictureRewards
) -> list[Tensor]:
    """Search for what to add to masks, so that they have a larger area.

    It starts from a uniform grid, not from what the larger area's own search found.

    Args:
        problem: of these images.
        masks: (N, H, W), of the next smaller area.
        larger: the index of the area.
        rewards: of the pictures.

    Returns:
        Masks (N, H, W) of that area, in which almost all of ``masks`` is: the best of the last
        iterations, and what they end with.
    """
    grid = masks.new_full((len(masks), *problem.smooth_mask.grid_size), 0.5)

    def grown(grid: Tensor, contrast: float) -> Tensor:
        # What is in the old masks lies above all that is not.
        areas = masks.new_full((len(masks),), problem.areas[larger])
        return exact_area(masks + problem.smooth_mask(grid), areas, contrast)

    found = climb(problem, grid, grown, _GROWTH_CONTRASTS, _GROWTH, rewards)
    return [grown(last, _LAST_CONTRAST) for last in found]


def climb(
    problem: MaskProblem,
    grid: Tensor,
    masks_of: Callable[[Tensor, float], Tensor],
    contrasts: tuple[float, float],
    iterations: int,
    rewards: PictureRewards,
) -> list[Tensor]:
    """Search at one area, while the contrast of the masks rises.

    Args:
        problem: of N images.
        grid: (N, rows, columns), where to start; it stays as it is.
        masks_of: the masks (N, H, W) of grids at a contrast, differentiable.
        contrasts: at the beginning and at the end.
        iterations: how many.
        rewards: of the pictures.

    Returns:
        Grids: the best of the last iterations, and those of the end.
    """
    grid = grid.clone().requires_grad_()
    best = BestGrids(grid)
    update = problem.config.updater(grid, iterations)
    for share in torch.linspace(0, 1, iterations).tolist():
        contrast = contrasts[0] ** (1 - share) * contrasts[1] ** share
        pictures = problem.pictures(masks_of(grid, contrast)[:, None])
        reward, slopes = rewards.with_slopes([some.detach() for some in pictures])
        if share >= _COMPARABLE:
            best.see(grid, reward)
        (slope,) = torch.autograd.grad(pictures, grid, slopes)
        update(slope)
    return [best.grid, grid.detach()]
