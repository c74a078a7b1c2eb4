"""How far a mask is from one that is fully on in a given area, and off elsewhere.

Section 3.1 of Fong, Patrick, Vedaldi. Understanding deep networks via extremal perturbations and
smooth masks. ICCV 2019, arXiv:1910.08485: the squared distance between the sorted mask and a step
of n ones, where n is the area in pixels. Sorting is not needed: with the ones at the n largest
values,

    |sort(m) - step|^2 = sum m^2 - 2 * (sum of the n largest) + n,

so that the n-th largest value decides.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["AreaPenalty", "area_step"]


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
