"""How a search constrains the areas of its masks: by construction, or by a penalty.

The penalty is how far a mask is from one that is fully on in a given area, and off elsewhere.
Section 3.1 of Fong, Patrick, Vedaldi. Understanding deep networks via extremal perturbations and
smooth masks. ICCV 2019, arXiv:1910.08485: the squared distance between the sorted mask and a step
of n ones, where n is the area in pixels. Sorting is not needed: with the ones at the n largest
values,

    |sort(m) - step|^2 = sum m^2 - 2 * (sum of the n largest) + n,

so that the n-th largest value decides.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lightning_saliency.image.exact_area import exact_area
from lightning_saliency.image.smooth_mask import SmoothMask


class AreaPenalty:
    """The penalty for masks of given areas and one size.

    Ties between pixels are broken by their place, as a stable sort does: of those that are equal,
    the last ones are within the area. A mask that is the same everywhere shrinks in its first rows
    first.

    Args:
        areas: of each mask, fractions in (0, 1].
        pixels: height * width of the masks.
        device: of the masks.
    """

    def __init__(
        self, areas: Sequence[float], pixels: int, device: torch.device | None = None
    ) -> None:
        # Rounded up, but not for a float's last digit.
        counts = [max(1, math.ceil(area * pixels - 1e-6)) for area in areas]
        self.on = torch.tensor(counts, device=device)
        self._most = max(counts)

    def __call__(self, mask: Tensor) -> Tensor:
        """Return the mean squared distance of each sorted mask from its step.

        Args:
            mask: (B, H, W), floating point.

        Returns:
            (B,), >= 0; 0 where the mask is 1 in its area and 0 in the rest.
        """
        penalty: Tensor = _SquaredDistance.apply(mask.flatten(1), self.on, self._most)
        return penalty


def area_step(flat: Tensor, on: Tensor, most: int) -> Tensor:
    """Return True at the largest values of each row; of those that tie, at the last ones.

    Args:
        flat: (B, P), floating point.
        on: (B,), int64, how many of each row, from 1 to P.
        most: the largest entry of ``on``, known without asking the device.

    Returns:
        (B, P), bool.
    """
    threshold = flat.topk(most, dim=1).values.gather(1, on[:, None] - 1)
    tied = flat == threshold
    after = tied.flip(1).cumsum(1, dtype=torch.int32).flip(1)
    return (flat > threshold) | tied & (after <= on[:, None] - (flat > threshold).sum(1, True))


class _SquaredDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, on: Tensor, most: int) -> Tensor:
        step = area_step(flat, on, most)
        ctx.save_for_backward(flat - step.to(flat.dtype))
        chosen = (flat * step).sum(1)
        return (flat.square().sum(1) - 2 * chosen + on) / flat.shape[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (difference,) = ctx.saved_tensors
        slope = gradients[0][:, None] * (2 / difference.shape[1])
        return difference * slope, None, None


class ConstrainedMasks(NamedTuple):
    """Masks in one iteration of a search.

    Attributes:
        masks: (B, H, W), on the image, in [0, 1].
        term: (B,), >= 0, what is taken off their rewards for their areas.
        error: (B,), >= 0, how far their areas are from the wanted ones, as a share of these.
    """

    masks: Tensor
    term: Tensor
    error: Tensor


@dataclass(frozen=True, eq=False)
class AreaConstraint(ABC):
    """Makes the masks of a search out of its grids, in each iteration.

    Args:
        smooth_mask: makes masks of any area out of grids.
        areas: of each mask, fractions in (0, 1].
        max_iter: how many iterations.
        like: a tensor of the grids' device and dtype.

    Attributes:
        first: the value of all points of the grids before the search.
    """

    first: ClassVar[float]
    smooth_mask: SmoothMask
    areas: Sequence[float]
    max_iter: int
    like: Tensor

    @cached_property
    def ends(self) -> Tensor:
        """The areas (B,), at which the masks end."""
        return self.like.new_tensor(self.areas)

    @abstractmethod
    def masks(self, grid: Tensor, iteration: int) -> ConstrainedMasks:
        """Return the masks, as a differentiable function of the grids.

        Args:
            grid: (B, rows, columns), in [0, 1].
            iteration: 0, ..., ``max_iter - 1``.
        """

    def rewards_comparable(self, iteration: int) -> bool:
        """Return whether the rewards of this and later iterations can be compared."""
        return False

    @abstractmethod
    def strength(self, iteration: int) -> float:
        """Return the strength of the constraint in an iteration; it rises over the search."""


class ShrinkingArea(AreaConstraint):
    """Masks have exactly their areas at all times; these shrink from 0.4 of the image.

    Grid values have no absolute scale: the mask is what lies above the level that gives the area
    (:func:`~lightning_saliency.image.exact_area.exact_area`). So the search maximizes the reward
    alone, whatever the scale of the network's logits, and there is no penalty to weight. At first
    the masks are large and gray, so that every pixel has a gradient; over the search the areas
    shrink geometrically, and the contrast rises, until the masks are almost 0 or 1. In the last
    fifth they are so close to that that the rewards of iterations can be compared.
    """

    first = 0.5
    _FIRST_AREA = 0.4
    _SHRINKING = 0.5  # of the iterations
    _COMPARABLE = 0.8
    _CONTRASTS = (4.0, 60.0)

    def masks(self, grid: Tensor, iteration: int) -> ConstrainedMasks:
        """See :meth:`AreaConstraint.masks`."""
        ends = self.ends
        left = max(0.0, 1 - self._share(iteration) / self._SHRINKING)
        areas = ends * (ends.clamp(min=self._FIRST_AREA) / ends) ** left
        masks = exact_area(self.smooth_mask(grid), areas, self.strength(iteration))
        return ConstrainedMasks(masks, ends.new_zeros(len(ends)), areas / ends - 1)

    def rewards_comparable(self, iteration: int) -> bool:
        """See :meth:`AreaConstraint.rewards_comparable`."""
        return self._share(iteration) >= self._COMPARABLE

    def strength(self, iteration: int) -> float:
        """Return the contrast; see :meth:`AreaConstraint.strength`."""
        low, high = self._CONTRASTS
        return float(low * (high / low) ** self._share(iteration))

    def _share(self, iteration: int) -> float:
        """Return how much of the search is done: 0 at its first iteration, 1 at the last."""
        return iteration / (self.max_iter - 1) if self.max_iter > 1 else 1.0


class PenalizedArea(AreaConstraint):
    """Masks of any area, and a penalty on the deviation from the wanted one, as in TorchRay.

    The area is that on the canvas, most of which lies outside small images. The penalty's weight
    grows by the same factor in each iteration.
    """

    first = 1.0
    _FIRST_WEIGHT = 300.0
    _GROWTH = 1.0035

    @cached_property
    def _penalty(self) -> AreaPenalty:
        height, width = self.smooth_mask.canvas_size
        return AreaPenalty(self.areas, height * width, self.like.device)

    def masks(self, grid: Tensor, iteration: int) -> ConstrainedMasks:
        """See :meth:`AreaConstraint.masks`."""
        canvas = self.smooth_mask.on_canvas(grid)
        error = (canvas.detach().mean((1, 2)) / self.ends - 1).abs()
        term = self.strength(iteration) * self._penalty(canvas)
        return ConstrainedMasks(self.smooth_mask.crop(canvas), term, error)

    def strength(self, iteration: int) -> float:
        """Return the penalty's weight; see :meth:`AreaConstraint.strength`."""
        return float(self._FIRST_WEIGHT * self._GROWTH**iteration)
