"""Fit a smooth function to values at points: kernel ridge regression."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SmoothFit"]

# How fast the function may change: two points as far apart as chance puts them have a kernel of
# exp(-2 * 0.3), which does best on the masks of several networks, and is not critical.
_SHARPNESS = 0.3
# How far the function keeps away from the values, in units of the kernel's mean eigenvalue.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class SmoothFit:
    """A function from points to R values each, close to those that are given.

    For each of the R values the ridge is the one that best foretells each point from all others.

    Args:
        points: (M, d), float64.
        values: (M, R), float64.

    Attributes:
        left_out: (M, R), what is foretold for each point by a fit to all other points.
        variance: (R,), mean squared error of that.
    """

    def __init__(self, points: Tensor, values: Tensor) -> None:
        squares = points.square().sum(1)
        self._sharpness = _SHARPNESS / squares.mean().clamp(min=torch.finfo(points.dtype).tiny)
        # |p - q|^2 by its parts, so that what is as large as the kernel is written once.
        self._slopes, self._heights = 2 * self._sharpness * points.T, -self._sharpness * squares
        kernel = self._kernel(points)
        means, level = kernel.mean(0), values.mean(0)
        centred = kernel - means - means[:, None] + means.mean()
        eigenvalues, vectors = torch.linalg.eigh(centred)
        eigenvalues = eigenvalues.clamp(min=0)
        along = vectors.T @ (values - level)
        self.variance = torch.full_like(level, torch.inf)
        self.left_out = torch.zeros_like(values)
        weights = torch.zeros_like(values)
        for ridge in _RIDGES:
            damped = eigenvalues + ridge * eigenvalues.mean() + torch.finfo(values.dtype).tiny
            fitted = vectors @ ((eigenvalues / damped)[:, None] * along)
            leverage = vectors.square() @ (eigenvalues / damped) + 1 / len(points)
            error = (values - level - fitted) / (1 - leverage).clamp(min=1e-3)[:, None]
            variance = error.square().mean(0)
            better = variance < self.variance
            self.variance = torch.where(better, variance, self.variance)
            self.left_out = torch.where(better, values - error, self.left_out)
            weights = torch.where(better, vectors @ (along / damped[:, None]), weights)
        # The centred kernel times the weights, without a centred kernel of each new point.
        self._balanced = weights - weights.mean(0)
        self._offset = level - (means - means.mean()) @ weights

    def __call__(self, points: Tensor) -> Tensor:
        """Return the function's values (P, R) at points (P, d)."""
        return torch.addmm(self._offset, self._kernel(points), self._balanced)

    def _kernel(self, points: Tensor) -> Tensor:
        """Return exp(-c |p - q|^2) for points p (P, d) and those of the fit, (P, M)."""
        exponents = torch.addmm(self._heights, points, self._slopes)
        return exponents.sub_(self._sharpness * points.square().sum(1, keepdim=True)).exp_()
