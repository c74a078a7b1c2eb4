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
        self._points = points
        self._scale = points.square().sum(1).mean().clamp(min=torch.finfo(points.dtype).tiny)
        kernel = self._kernel(points)
        self._column_means = kernel.mean(0)
        self._level = values.mean(0)
        centred = kernel - self._column_means - self._column_means[:, None] + kernel.mean()
        eigenvalues, vectors = torch.linalg.eigh(centred)
        eigenvalues = eigenvalues.clamp(min=0)
        along = vectors.T @ (values - self._level)
        self.variance = torch.full_like(self._level, torch.inf)
        self.left_out = torch.zeros_like(values)
        self._weights = torch.zeros_like(values)
        for ridge in _RIDGES:
            damped = eigenvalues + ridge * eigenvalues.mean() + torch.finfo(values.dtype).tiny
            fitted = vectors @ ((eigenvalues / damped)[:, None] * along)
            leverage = vectors.square() @ (eigenvalues / damped) + 1 / len(points)
            error = (values - self._level - fitted) / (1 - leverage).clamp(min=1e-3)[:, None]
            variance = error.square().mean(0)
            better = variance < self.variance
            self.variance = torch.where(better, variance, self.variance)
            self.left_out = torch.where(better, values - error, self.left_out)
            weights = vectors @ (along / damped[:, None])
            self._weights = torch.where(better, weights, self._weights)

    def __call__(self, points: Tensor) -> Tensor:
        """Return the function's values (P, R) at points (P, d)."""
        kernel = self._kernel(points)
        kernel -= kernel.mean(1, keepdim=True)
        kernel -= self._column_means - self._column_means.mean()
        return kernel @ self._weights + self._level

    def _kernel(self, points: Tensor) -> Tensor:
        distances = torch.cdist(points, self._points).square_()
        return distances.mul_(-_SHARPNESS / self._scale).exp_()
