"""Fill in pixels that are missing, from those around them.

Rong, Leemann, Borisov, Kasneci, Kasneci. A consistent and efficient evaluation strategy for
attribution methods. ICML 2022, arXiv:2202.00449.

Every missing pixel shall be the weighted mean of its eight neighbors, 1/6 for the four that share
an edge with it and 1/12 for the others. For the missing pixels together that is a linear system,
the same for every channel; here it is solved by conjugate gradients, with a multigrid cycle as the
preconditioner (Hackbusch. Multi-grid methods and applications. Springer 1985), which takes about
ten iterations whatever the size of the holes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError

# Of the range of the picture's values; noise of a hundredth of its deviation is added by ROAD.
_TOLERANCE = 1e-4
_MOST_ITERATIONS = 100
# Of Jacobi's iteration; 0.8 smooths best.
_DAMPING = 0.8


def fill_in(image: Tensor, known: Tensor) -> Tensor:
    """Replace the missing pixels by the weighted means of their neighbors.

    At the border the weights of the neighbors that exist are scaled to sum to 1.

    Args:
        image: (N, C, H, W), floating point; the values of missing pixels have no influence.
        known: (N, 1, H, W), bool, on the same device; at least one pixel of each image.

    Returns:
        (N, C, H, W), in the images' dtype; known pixels are as they were.

    Raises:
        InputError: the shapes do not fit, or an image has no known pixel.
    """
    if image.dim() != 4 or known.shape != (len(image), 1, *image.shape[2:]):
        raise InputError(
            "Expected images (N, C, H, W) and their known pixels (N, 1, H, W), got "
            f"{tuple(image.shape)} and {tuple(known.shape)}."
        )
    if not bool(known.flatten(1).any(1).all()):
        raise InputError("Expected at least one known pixel in each image, got one without any.")
    if bool(known.all()):
        return image
    dtype = torch.promote_types(image.dtype, torch.float32)
    system = _System((~known).to(dtype), torch.ones_like(known, dtype=dtype))
    values = torch.where(known, image.to(dtype), 0)
    # The mean first, so that what is solved for is small.
    mean = values.sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True)
    values = torch.where(known, values - mean, 0)
    filled = _solve(system, system.missing * _weighted_sum(values))
    return torch.where(known, image, (filled + mean).to(image.dtype))


class _System:
    """The equations of the missing pixels on one grid, and on the coarser ones.

    Args:
        missing: (N, 1, h, w), 1 where a pixel is missing, else 0.
        exists: (N, 1, h, w), 0 for what only makes the sides of a grid even, else 1.
    """

    def __init__(self, missing: Tensor, exists: Tensor) -> None:
        self.missing = missing
        self._weight = _weighted_sum(exists)
        # A picture of one pixel has no neighbors.
        self._step = _DAMPING * missing / self._weight.clamp_min(1e-3)
        self._coarser: _System | None = None
        if max(missing.shape[2:]) > 2 and bool(missing.any()):
            missing, exists = _even(missing), _even(exists)
            all_missing = F.avg_pool2d(missing, 2) > F.avg_pool2d(exists, 2) - 0.1
            exists = F.max_pool2d(exists, 2)
            self._coarser = _System(all_missing.to(exists.dtype) * exists, exists)

    def apply(self, values: Tensor) -> Tensor:
        """Return the left side of the equations for values that are 0 where pixels are known."""
        return self.missing * (self._weight * values - _weighted_sum(values))

    def improve(self, right: Tensor) -> Tensor:
        """Return an approximate solution for a right side: one multigrid cycle."""
        values = self._smooth(self._step * right, right, 1)
        if self._coarser is None:
            return self._smooth(values, right, 4)
        rest = F.avg_pool2d(_even(right - self.apply(values)), 2) * 4
        coarse = self._coarser.improve(rest * self._coarser.missing)
        height, width = values.shape[2:]
        finer = F.interpolate(coarse, scale_factor=2.0, mode="nearest")[..., :height, :width]
        return self._smooth(values + self.missing * finer, right, 2)

    def _smooth(self, values: Tensor, right: Tensor, times: int) -> Tensor:
        for _ in range(times):
            values = values + self._step * (right - self.apply(values))
        return values


def _solve(system: _System, right: Tensor) -> Tensor:
    values = torch.zeros_like(right)
    rest = right
    better = direction = system.improve(rest)
    product = _dot(rest, better)
    # In comparison with the largest first correction, which is as large as the values that miss.
    enough = _TOLERANCE * better.abs().amax((2, 3), keepdim=True)
    for _ in range(_MOST_ITERATIONS):
        # Each channel of each image is a system of its own; one that is solved stays as it is.
        unsolved = better.abs().amax((2, 3), keepdim=True) > enough
        if not bool(unsolved.any()):
            break
        image = system.apply(direction)
        length = (product / _dot(direction, image)).where(unsolved, 0)
        values = values + length * direction
        next_rest = rest - length * image
        better = system.improve(next_rest)
        # Polak and Ribière's form bears a preconditioner that is not quite symmetric.
        factor = (_dot(better, next_rest - rest) / product).where(unsolved, 0)
        product, rest = _dot(better, next_rest), next_rest
        direction = better + factor * direction
    return values


def _weighted_sum(values: Tensor) -> Tensor:
    """Return the weighted sum of each pixel's neighbors; outside there are zeros."""
    padded = F.pad(values, (1, 1, 1, 1))
    rows = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    sums = rows[..., :-2, :] + 2 * rows[..., 1:-1, :] + rows[..., 2:, :]
    return (sums - 4 * values) / 12


def _even(values: Tensor) -> Tensor:
    return F.pad(values, (0, values.shape[3] % 2, 0, values.shape[2] % 2))


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum((2, 3), keepdim=True)
