"""The search of extremal perturbation: the masks of given areas with the largest reward.

Section 3 of Fong, Patrick, Vedaldi. Understanding deep networks via extremal perturbations and
smooth masks. ICCV 2019, arXiv:1910.08485.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from lightning_saliency.attribution.first_look import coarse_masks, first_grids
from lightning_saliency.attribution.mask_area import AreaRule, HeldMasks
from lightning_saliency.attribution.mask_growth import BestGrids, last_masks
from lightning_saliency.attribution.mask_recipe import MaskRecipe
from lightning_saliency.attribution.picture_rewards import PictureRewards
from lightning_saliency.attribution.progress import report
from lightning_saliency.attribution.reward import Variant
from lightning_saliency.image.perturbation import blend
from lightning_saliency.image.smooth_mask import SmoothMask

__all__ = ["MaskSearch", "Progress"]

Progress = Callable[[int, float, Tensor], None]
"""Called after each iteration with its number, how hard it presses for the areas (the weight of the
area term, or the contrast of the masks; it rises), and a tensor (B, 2): the rewards of the masks,
and minus their weighted area terms, on the images' device."""

# How many iterations pass between two looks at how far the masks have come. Each look makes the
# host wait for the device.
_LOOK = 5

# At least so many pictures of the first look are made at once, for the model's sake.
_TOGETHER = 32


@dataclass(frozen=True)
class MaskSearch:
    """A search for the masks of all areas of all images at once.

    Attributes:
        recipe: how it is done.
        areas: of the masks of each image, fractions in (0, 1].
        max_iter: how many iterations.
        smooth_mask: makes masks out of grids.
        levels: (N, L, C, H, W), the images at each degree of perturbation.
        variant: the game.
        jitter: move or mirror the pictures a little, in each iteration in another way.
        seed: of the order in which that is done.
        tolerance: the search ends when no mask has changed by more than this share of its area in
            five iterations, and all areas are right to this share; None for all iterations.
    """

    recipe: MaskRecipe
    areas: tuple[float, ...]
    max_iter: int
    smooth_mask: SmoothMask
    levels: Tensor
    variant: Variant
    jitter: bool
    seed: int = 0
    tolerance: float | None = None

    def run(
        self, rewards: PictureRewards, progress: Progress | None = None
    ) -> tuple[Tensor, Tensor]:
        """Search, from what a first look at coarse masks says, or from masks that are even.

        One forward and one backward pass of the model for each mask and iteration (two for the
        dual game), and ten more for each mask that does hardly better than the next smaller one;
        and forward passes alone, 16 for each image, and two to four for each mask. Without
        ``tolerance``, the host does not wait for the device before the end.

        Args:
            rewards: of the pictures.
            progress: called after each iteration.

        Returns:
            The masks (N, A, H, W), float32 at least, and the history (N, A, 2, iterations): the
            rewards, and minus the weighted area terms.
        """
        shape = (len(self.levels), len(self.areas))
        grid = self._first_grid(rewards).requires_grad_()
        best = BestGrids(grid)
        move = self.recipe.mover(grid, self.max_iter)
        history = grid.new_zeros(len(grid), 2, self.max_iter)
        masks = seen = grid.detach()
        for iteration in range(self.max_iter):
            # Odd, because mirroring goes by even and odd iterations.
            place = iteration + 997 * self.seed
            jitter = partial(self.recipe.jitter, place) if self.jitter else None
            (masks, area_term, error), reward, slope = self.slope(grid, iteration, rewards, jitter)
            if self.area_rule.settled(iteration):
                best.see(grid, reward)
            history[:, 0, iteration] = reward
            history[:, 1, iteration] = -area_term
            move(slope)
            report(iteration + 1, self.max_iter)
            if progress is not None:
                progress(iteration, self.area_rule.pressure(iteration), history[:, :, iteration])
            if self.tolerance is not None and (iteration + 1) % _LOOK == 0:
                if iteration >= _LOOK and _largest_miss(masks, seen, error) <= self.tolerance:
                    report(self.max_iter, self.max_iter)
                    history = history[:, :, : iteration + 1]
                    break
                seen = masks
        if self.recipe.finished:
            masks = last_masks(self, [grid.detach(), best.grid], rewards)
        return masks.reshape(*shape, *masks.shape[-2:]), history.reshape(*shape, 2, -1)

    def slope(
        self,
        grid: Tensor,
        iteration: int,
        rewards: PictureRewards,
        jitter: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[HeldMasks, Tensor, Tensor]:
        """Return how the energy, the rewards minus the area terms, changes with each point.

        Args:
            grid: (N * A, rows, columns), in [0, 1], a leaf that needs a gradient.
            iteration: see :meth:`~lightning_saliency.attribution.mask_area.AreaRule.masks`.
            rewards: of the pictures.
            jitter: what the pictures go through before the model sees them.

        Returns:
            The masks; their rewards (N * A,); and the energy's derivative, like ``grid``. All are
            detached.
        """
        masks, area_term, error = self.area_rule.masks(grid, iteration)
        games = self.pictures(masks.reshape(len(self.levels), -1, *masks.shape[1:]))
        reward, slopes = rewards.with_slopes([game.detach() for game in games], jitter)
        if area_term.requires_grad:
            games, slopes = [*games, area_term], [*slopes, -torch.ones_like(area_term)]
        (slope,) = torch.autograd.grad(games, grid, slopes)
        return HeldMasks(masks.detach(), area_term.detach(), error), reward, slope

    def pictures(self, masks: Tensor) -> list[Tensor]:
        """Return the pictures that are judged, (N * A, C, H, W), for each game.

        Args:
            masks: (N, A, H, W).
        """
        games = {"preserve": [masks], "delete": [1 - masks], "dual": [masks, 1 - masks]}
        return [
            blend(self.levels, kept, slope_at_one=self.recipe.slope_at_one).flatten(0, 1)
            for kept in games[self.variant]
        ]

    @cached_property
    def area_rule(self) -> AreaRule:
        """What holds the masks to their areas."""
        return self.recipe.area_rule(
            self.smooth_mask,
            self.areas * len(self.levels),
            self.max_iter,
            # Half precision does not do for the masks.
            self.levels.new_empty(0, dtype=torch.promote_types(self.levels.dtype, torch.float32)),
        )

    def _first_grid(self, rewards: PictureRewards) -> Tensor:
        """Return the grids that a search begins with, (N * A, rows, columns)."""
        images, areas = len(self.levels), len(self.areas)
        like = self.area_rule.like
        if not self.recipe.first_look:
            return like.new_full(
                (images * areas, *self.smooth_mask.grid_size), self.area_rule.first
            )
        masks = coarse_masks(self.smooth_mask.size, like)
        # No more pictures at a time than the search has anyhow, unless these are few.
        found = [
            rewards.judge(self.pictures(some.expand(images, -1, -1, -1)))[0].reshape(images, -1)
            for some in torch.split(masks, max(areas, _TOGETHER // images, 1))
        ]
        grids = first_grids(torch.cat(found, 1), masks, self.smooth_mask.step)
        return grids.repeat_interleave(areas, 0)


def _largest_miss(masks: Tensor, before: Tensor, error: Tensor) -> float:
    """Return how far any mask has changed, or its area is off, as a share of its area."""
    change = (masks - before).abs().sum((1, 2)) / masks.sum((1, 2))
    return float(torch.maximum(change, error).amax())
