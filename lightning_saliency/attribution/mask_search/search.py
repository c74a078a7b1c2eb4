"""The search of extremal perturbation: the masks of given areas with the largest reward.

Section 3 of Fong, Patrick, Vedaldi. Understanding deep networks via extremal perturbations and
smooth masks. ICCV 2019, arXiv:1910.08485.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from lightning_saliency.attribution.mask_search.area_constraint import (
    AreaConstraint,
    ConstrainedMasks,
)
from lightning_saliency.attribution.mask_search.initialization import coarse_masks, initial_grids
from lightning_saliency.attribution.mask_search.objective import MaskProblem, PictureRewards
from lightning_saliency.attribution.mask_search.refinement import BestGrids, refine_masks
from lightning_saliency.attribution.mask_search.rounds import search_on
from lightning_saliency.attribution.progress import report
from lightning_saliency.errors import InputError

Progress = Callable[[int, float, Tensor], None]
"""Called after each iteration with its number, the strength of the area constraint (the weight of
the area term, or the contrast of the masks; it rises), and a tensor (B, 2): the rewards of the
masks, and minus their weighted area terms, on the images' device."""

# How many iterations pass between two checks for convergence. Each makes the host wait for the
# device.
_CHECK_EVERY = 5

# At least so many pictures of the coarse masks are made at once, to keep the model efficient.
_LEAST_PICTURES = 32


@dataclass(frozen=True)
class MaskSearch(MaskProblem):
    """A search for the masks of all areas of all images at once.

    Attributes:
        max_iter: how many iterations.
        jitter: move or mirror the pictures a little, in each iteration in another way.
        seed: of the order in which that is done.
        tolerance: the search ends when no mask has changed by more than this share of its area in
            five iterations, and all areas are right to this share; None for all iterations.
        rounds: how many more rounds a mask may have, see
            :func:`~lightning_saliency.attribution.mask_search.rounds.search_on`.
    """

    max_iter: int
    jitter: bool
    seed: int = 0
    tolerance: float | None = None
    rounds: int = 0

    def run(
        self, rewards: PictureRewards, progress: Progress | None = None
    ) -> tuple[Tensor, Tensor]:
        """Search, starting from the rewards of coarse masks, or from uniform masks.

        One forward and one backward pass of the model for each mask and iteration (two for
        ``"dual"``), and eight more for each mask that does hardly better than the next smaller one;
        and forward passes alone, 32 for each image, and two to four for each mask. Without
        ``tolerance`` or ``rounds``, the host does not wait for the device before the end.

        Args:
            rewards: of the pictures.
            progress: called after each iteration.

        Returns:
            The masks (N, A, H, W), float32 at least, and the history (N, A, 2, iterations): the
            rewards, and minus the weighted area terms.
        """
        shape = (len(self.levels), len(self.areas))
        grid = self._initial_grid(rewards).requires_grad_()
        best = BestGrids(grid)
        update = self.config.updater(grid, self.max_iter)
        history = grid.new_zeros(len(grid), 2, self.max_iter)
        masks = checked = grid.detach()
        for iteration in range(self.max_iter):
            # Odd, because mirroring goes by even and odd iterations.
            place = iteration + 997 * self.seed
            jitter = partial(self.config.jitter, place) if self.jitter else None
            (masks, area_term, error), reward, slope = self.slope(grid, iteration, rewards, jitter)
            if self.area_constraint.rewards_comparable(iteration):
                best.see(grid, reward)
            history[:, 0, iteration] = reward
            history[:, 1, iteration] = -area_term
            update(slope)
            report(iteration + 1, self.max_iter)
            if progress is not None:
                strength = self.area_constraint.strength(iteration)
                progress(iteration, strength, history[:, :, iteration])
            if self.tolerance is not None and (iteration + 1) % _CHECK_EVERY == 0:
                if (
                    iteration >= _CHECK_EVERY
                    and _largest_change(masks, checked, error) <= self.tolerance
                ):
                    report(self.max_iter, self.max_iter)
                    history = history[:, :, : iteration + 1]
                    break
                checked = masks
        if self.config.refined:
            grids = [grid.detach(), best.grid]
            if self.rounds:
                grids = [search_on(self, grids, rewards, self.rounds)]
            masks = refine_masks(self, grids, rewards)
        return masks.reshape(*shape, *masks.shape[-2:]), history.reshape(*shape, 2, -1)

    def slope(
        self,
        grid: Tensor,
        iteration: int,
        rewards: PictureRewards,
        jitter: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[ConstrainedMasks, Tensor, Tensor]:
        """Return the derivative of the energy, the rewards minus the area terms.

        Args:
            grid: (N * A, rows, columns), in [0, 1], a leaf that needs a gradient.
            iteration: see :meth:`AreaConstraint.masks`.
            rewards: of the pictures.
            jitter: applied to the pictures before the model sees them.

        Returns:
            The masks; their rewards (N * A,); and the energy's derivative, like ``grid``. All are
            detached.
        """
        masks, area_term, error = self.area_constraint.masks(grid, iteration)
        pictures = self.pictures(masks.reshape(len(self.levels), -1, *masks.shape[1:]))
        reward, slopes = rewards.with_slopes([some.detach() for some in pictures], jitter)
        if area_term.requires_grad:
            pictures, slopes = [*pictures, area_term], [*slopes, -torch.ones_like(area_term)]
        (slope,) = torch.autograd.grad(pictures, grid, slopes)
        return ConstrainedMasks(masks.detach(), area_term.detach(), error), reward, slope

    @cached_property
    def area_constraint(self) -> AreaConstraint:
        """What holds the masks to their areas."""
        return self.config.area_constraint(
            self.smooth_mask,
            self.areas * len(self.levels),
            self.max_iter,
            # Half precision does not do for the masks.
            self.levels.new_empty(0, dtype=torch.promote_types(self.levels.dtype, torch.float32)),
        )

    def _initial_grid(self, rewards: PictureRewards) -> Tensor:
        images, areas = len(self.levels), len(self.areas)
        like = self.area_constraint.like
        if not self.config.coarse_initialization:
            return like.new_full(
                (images * areas, *self.smooth_mask.grid_size), self.area_constraint.first
            )
        masks = coarse_masks(self.smooth_mask.size, like)
        found = [self._rewards_of(masks, rewards)]
        if self.variant != "dual":
            # What is lost by the opposite counts for the mask. A dual reward holds both already.
            found.append(-self._rewards_of(1 - masks, rewards))
        grids = initial_grids(found, masks, self.smooth_mask.step)
        return grids.repeat_interleave(areas, 0)

    def _rewards_of(self, masks: Tensor, rewards: PictureRewards) -> Tensor:
        """Return the rewards (N, K) of each image with each of some masks (K, H, W)."""
        images = len(self.levels)
        # No more pictures at a time than the search has anyhow, unless these are few.
        parts = torch.split(masks, max(len(self.areas), _LEAST_PICTURES // images, 1))
        found = [
            rewards.evaluate(self.pictures(some.expand(images, -1, -1, -1)))[0] for some in parts
        ]
        return torch.cat([some.reshape(images, -1) for some in found], 1)


def _largest_change(masks: Tensor, before: Tensor, error: Tensor) -> float:
    """Return how far any mask has changed, or its area is off, as a share of its area."""
    change = (masks - before).abs().sum((1, 2)) / masks.sum((1, 2))
    return float(torch.maximum(change, error).amax())


class ConsoleProgress:
    """Prints the rewards and area terms in some iterations; each line waits for the device.

    Args:
        areas: of the masks of each image.
        every: print in every such iteration, from the first on; None for none.
        doubled: print whenever the strength of the area constraint has doubled.

    Raises:
        InputError: ``every`` is not positive.
    """

    def __init__(self, areas: tuple[float, ...], every: int | None, doubled: bool) -> None:
        if every is not None and every < 1:
            raise InputError(f"Expected print_iter >= 1, got {every}.")
        self._areas = areas
        self._every = every
        self._doubled = doubled
        self._last_strength = 0.0

    def __call__(self, iteration: int, strength: float, state: Tensor) -> None:
        """Print a line for each mask; see :data:`Progress`."""
        doubled = self._doubled and strength >= 2 * self._last_strength
        if doubled:
            self._last_strength = strength
        if not doubled and (self._every is None or iteration % self._every):
            return
        for row, (reward, area_term) in enumerate(state.tolist()):
            image, area = divmod(row, len(self._areas))
            print(
                f"iteration {iteration + 1}, image {image}, area {self._areas[area]:g}: reward "
                f"{reward:.4g}, area term {area_term:.4g}"
            )
