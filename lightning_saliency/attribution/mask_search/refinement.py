"""The end of a search for masks: the best of the last iterations, larger masks grown from smaller.

At the end of a search two things are known that were not before: whether an earlier mask was better
than the last one, and whether the mask of a smaller area did better than that of a larger one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_saliency.attribution.mask_search.objective import MaskProblem, PictureRewards
from lightning_saliency.image.exact_area import exact_area

# For how many iterations a mask of one area is grown to the next, and how its contrast rises.
_GROWTH = 10
_GROWTH_CONTRASTS = (8.0, 60.0)
# In the last third the masks are so close to the final ones that their rewards can be compared.
_GROWTH_COMPARABLE = 0.7

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


class _Found(NamedTuple):
    """Masks (N, A, H, W) and their rewards (N, A)."""

    masks: Tensor
    rewards: Tensor

    def or_better(self, other: _Found) -> _Found:
        """Return the better one of each pair; of two that are equal, this one."""
        better = other.rewards > self.rewards
        return _Found(
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
    found = [_evaluated(problem, _final(problem, grid), rewards) for grid in grids]
    masks, best = reduce(_Found.or_better, found)
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
        masks[here], best[here] = reduce(_Found.or_better, found, _Found(masks[here], best[here]))
    return masks


def _final(problem: MaskProblem, grid: Tensor) -> Tensor:
    """Return masks (N, A, H, W), almost without gray, of grids (N * A, rows, columns)."""
    areas = grid.new_tensor(problem.areas * len(problem.levels))
    masks = exact_area(problem.smooth_mask(grid), areas, _LAST_CONTRAST)
    return masks.reshape(len(problem.levels), -1, *problem.smooth_mask.size)


def _evaluated(problem: MaskProblem, masks: Tensor, rewards: PictureRewards) -> _Found:
    reward, _ = rewards.evaluate(problem.pictures(masks))
    return _Found(masks, reward.reshape(masks.shape[:2]))


def _grow(
    problem: MaskProblem, masks: Tensor, larger: int, rewards: PictureRewards
) -> Iterator[Tensor]:
    """Search for what to add to masks, so that they have a larger area.

    It starts from a uniform grid, not from what the larger area's own search found.

    Args:
        problem: of these images.
        masks: (N, H, W), of the next smaller area.
        larger: the index of the area.
        rewards: of the pictures.

    Yields:
        Masks (N, H, W) of that area, in which almost all of ``masks`` is: the best of the last
        iterations, and what they end with.
    """
    area = masks.new_full((len(masks),), problem.areas[larger])
    grid = masks.new_full((len(masks), *problem.smooth_mask.grid_size), 0.5).requires_grad_()
    best = BestGrids(grid)
    update = problem.config.updater(grid, _GROWTH)
    for share in torch.linspace(0, 1, _GROWTH).tolist():
        contrast = _GROWTH_CONTRASTS[0] ** (1 - share) * _GROWTH_CONTRASTS[1] ** share
        # What is in the old masks lies above all that is not.
        grown = exact_area(masks + problem.smooth_mask(grid), area, contrast)
        pictures = problem.pictures(grown[:, None])
        reward, slopes = rewards.with_slopes([some.detach() for some in pictures])
        if share >= _GROWTH_COMPARABLE:
            best.see(grid, reward)
        (slope,) = torch.autograd.grad(pictures, grid, slopes)
        update(slope)
    for last in (best.grid, grid.detach()):
        yield exact_area(masks + problem.smooth_mask(last), area, _LAST_CONTRAST)
