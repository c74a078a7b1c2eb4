"""The search of extremal perturbation: the masks of given areas with the largest reward.

Section 3 of Fong, Patrick, Vedaldi. Understanding deep networks via extremal perturbations and
smooth masks. ICCV 2019, arXiv:1910.08485.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from lightning_saliency.attribution.area_penalty import AreaPenalty
from lightning_saliency.attribution.mask_recipe import MaskRecipe
from lightning_saliency.attribution.picture_rewards import PictureRewards
from lightning_saliency.attribution.progress import report
from lightning_saliency.attribution.reward import Variant
from lightning_saliency.image.exact_area import exact_area
from lightning_saliency.image.perturbation import blend
from lightning_saliency.image.smooth_mask import SmoothMask

__all__ = ["MaskSearch", "Progress"]

Progress = Callable[[int, float, Tensor], None]
"""Called after each iteration with its number, the weight of the area term, and a tensor (B, 2):
the rewards of the masks, and minus their weighted area terms, on the images' device."""


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
    """

    recipe: MaskRecipe
    areas: tuple[float, ...]
    max_iter: int
    smooth_mask: SmoothMask
    levels: Tensor
    variant: Variant
    jitter: bool
    seed: int = 0

    def run(
        self, rewards: PictureRewards, progress: Progress | None = None
    ) -> tuple[Tensor, Tensor]:
        """Search, from masks that keep everything.

        One forward and one backward pass of the model for each mask and iteration (two for the
        dual game). The host does not wait for the device before the end.

        Args:
            rewards: of the pictures.
            progress: called after each iteration.

        Returns:
            The masks (N, A, H, W), float32 at least, and the history (N, A, 2, iterations): the
            rewards, and minus the weighted area terms.
        """
        shape = (len(self.levels), len(self.areas))
        dtype = torch.promote_types(self.levels.dtype, torch.float32)
        grid = self.levels.new_ones(
            shape[0] * shape[1], *self.smooth_mask.grid_size, dtype=dtype
        ).requires_grad_()
        optimizer = self.recipe.optimizer([grid])
        history = grid.new_zeros(len(grid), 2, self.max_iter)
        scale: float | Tensor = 1.0
        if self.recipe.relative:
            scale = rewards.spread(self.levels[:, -1], self.levels[:, 0])
            scale = scale.repeat_interleave(shape[1])
        masks = grid
        for iteration, weight in enumerate(self.recipe.weights(self.max_iter)):
            # Odd, because mirroring goes by even and odd iterations.
            place = iteration + 997 * self.seed
            jitter = partial(self.recipe.jitter, place) if self.jitter else None
            masks, reward, area_term, slope = self.slope(grid, weight * scale, rewards, jitter)
            # The optimiser makes the negative of the energy small.
            grid.grad = slope.neg_()
            history[:, 0, iteration] = reward
            history[:, 1, iteration] = -area_term
            optimizer.step()
            with torch.no_grad():
                grid.clamp_(0, 1)
            report(iteration + 1, self.max_iter)
            if progress is not None:
                progress(iteration, weight, history[:, :, iteration])
        if self.recipe.finished:
            masks, _ = self._masks(grid.detach())
            area = masks.new_tensor(self.areas * shape[0])
            masks = exact_area(masks, area)
        masks = masks.detach()
        return masks.reshape(*shape, *masks.shape[1:]), history.reshape(*shape, 2, -1)

    def slope(
        self,
        grid: Tensor,
        weight: float | Tensor,
        rewards: PictureRewards,
        jitter: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return how the energy, the rewards minus the area terms, changes with each point.

        Args:
            grid: (N * A, rows, columns), in [0, 1], a leaf that needs a gradient.
            weight: of the area terms, one for all or for each, (N * A,).
            rewards: of the pictures.
            jitter: what the pictures go through before the model sees them.

        Returns:
            The masks on the image (N * A, H, W); their rewards and weighted area terms (N * A,);
            and the energy's derivative, like ``grid``. All are detached.
        """
        masks, measured = self._masks(grid)
        games = self.pictures(masks.reshape(len(self.levels), -1, *masks.shape[1:]))
        reward, slopes = rewards.with_slopes([game.detach() for game in games], jitter)
        area_term = weight * self._area_penalty(measured)
        (slope,) = torch.autograd.grad(
            [*games, area_term], grid, [*slopes, -torch.ones_like(area_term)]
        )
        return masks.detach(), reward, area_term.detach(), slope

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
    def _area_penalty(self) -> AreaPenalty:
        on_canvas = self.recipe.area_on_canvas
        size = self.smooth_mask.canvas_size if on_canvas else self.smooth_mask.size
        return AreaPenalty(
            self.areas * len(self.levels),
            size[0] * size[1],
            self.levels.device,
            by_sorting=self.recipe.ties_by_place,
        )

    def _masks(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the masks on the image, and those whose area counts."""
        if not self.recipe.area_on_canvas:
            masks = self.smooth_mask(grid)
            return masks, masks
        canvas = self.smooth_mask.on_canvas(grid)
        return self.smooth_mask.crop(canvas), canvas
