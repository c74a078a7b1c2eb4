"""Kernel ridge regression on values at points and at their opposites."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

# The kernel's inverse width: two random points have a kernel of exp(-2 * 0.3), which does best on
# the masks of several networks, and is not critical.
_SHARPNESS = 0.3
# The regularization, in units of the kernel's mean eigenvalue.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class PairKernel:
    """The kernel of points and their opposites: all of a fit that does not depend on the values.

    The kernel is the same for two points as for their opposites, so the even part of a function,
    (f(p) + f(-p)) / 2, and the odd one, (f(p) - f(-p)) / 2, are fits of their own, each to half as
    many values: a quarter of the work.

    Args:
        points: (M, d), float64; each stands for itself and for its opposite.

    Attributes:
        count: M.
        means: (M,), of the even kernel.
        even: the even kernel, centered, because a free level is even.
        odd: the odd kernel.
    """

    def __init__(self, points: Tensor) -> None:
        squares = points.square().sum(1)
        self._sharpness = _SHARPNESS / squares.mean().clamp(min=torch.finfo(points.dtype).tiny)
        self._slopes, self._heights = 2 * self._sharpness * points.T, -self._sharpness * squares
        self.count = len(points)
        even, odd = self(points)
        self.means = even.mean(0)
        self.even = _Eigenvectors(even - self.means - self.means[:, None] + self.means.mean())
        self.odd = _Eigenvectors(odd)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return k(p, q) + k(p, -q) and k(p, q) - k(p, -q), (P, M), for points q of the fit.

        k(p, q) = exp(-c |p - q|^2).

        Args:
            points: (P, d).
        """
        # |p - q|^2 by its parts: only that in the middle has another sign for -q.
        products = points @ self._slopes
        heights = self._heights - self._sharpness * points.square().sum(1, keepdim=True)
        near, far = (heights + products).exp_(), heights.sub_(products).exp_()
        return near + far, near.sub_(far)


class KernelRidge:
    """A function from points to R values each, close to those that are given.

    For each of the R values the ridge is the one with the least leave-one-out error.

    Args:
        kernel: of the M points, each of which stands for itself and for its opposite.
        values: (2, M, R), float64: at the points, and at their opposites.

    Attributes:
        leave_one_out: (2, M, R), the prediction at each point of a fit to all other points.
        variance: (R,), mean squared error of these predictions.
    """

    def __init__(self, kernel: PairKernel, values: Tensor) -> None:
        there, opposite = values
        even, odd = (there + opposite) / 2, (there - opposite) / 2
        level, means = even.mean(0), kernel.means
        of_even, of_odd = _Ridge(kernel.even, even - level), _Ridge(kernel.odd, odd)
        mean_eigenvalue = (of_even.eigenvalues.mean() + of_odd.eigenvalues.mean()) / 2
        ridges = mean_eigenvalue * torch.tensor(_RIDGES, dtype=values.dtype)
        (fitted_even, leverage_even), (fitted_odd, leverage_odd) = (
            part.fits(ridges) for part in (of_even, of_odd)
        )
        leverage = (leverage_even + leverage_odd + 1 / kernel.count) / 2
        # (2, ridges, M, R)
        error = (values - level)[:, None] - _both(fitted_even, fitted_odd)
        error /= (1 - leverage).clamp(min=1e-3)[..., None]
        self.variance, best = error.square().mean((0, 2)).min(0)
        chosen = best.expand(1, len(there), -1)
        self.leave_one_out = values - error.gather(1, chosen.expand(2, 1, -1, -1))[:, 0]
        self._even, self._odd = (part.weights(ridges[best]) for part in (of_even, of_odd))
        # The centered kernel times the weights, without a centered kernel of each new point.
        self._offset = level - (means - means.mean()) @ self._even
        self._even -= self._even.mean(0)

    def at(self, even: Tensor, odd: Tensor) -> Tensor:
        """Return the function's values (2, P, R) at some points, and at their opposites.

        Args:
            even: (P, M), float64, the even kernel of the points with those of the fit, from
                :meth:`PairKernel.__call__`.
            odd: (P, M), the odd one.
        """
        return _both(torch.addmm(self._offset, even, self._even), odd @ self._odd)

    def select(self, columns: Tensor) -> KernelRidge:
        """Return the fits to some of the values.

        Args:
            columns: their indices, int64, (S,).
        """
        chosen = copy(self)
        chosen.leave_one_out = self.leave_one_out[..., columns]
        chosen.variance, chosen._offset = self.variance[columns], self._offset[columns]
        chosen._even, chosen._odd = self._even[:, columns], self._odd[:, columns]
        return chosen


class _Eigenvectors:
    """Of a kernel; what rounding makes negative is 0."""

    def __init__(self, kernel: Tensor) -> None:
        eigenvalues, self.vectors = torch.linalg.eigh(kernel)
        self.values = eigenvalues.clamp(min=0)
        self.squares = self.vectors.square()


class _Ridge:
    """Ridge regression on one part of the values, for any ridge, by the kernel's eigenvectors."""

    def __init__(self, kernel: _Eigenvectors, values: Tensor) -> None:
        self.eigenvalues, self._vectors = kernel.values, kernel.vectors
        self._squares = kernel.squares
        self._along = self._vectors.T @ values

    def fits(self, ridges: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fitted values (S, M, R) and their leverages (S, M), for ridges (S,)."""
        kept = self.eigenvalues / self._damped(ridges)
        return self._vectors @ (kept[..., None] * self._along), kept @ self._squares.T

    def weights(self, ridges: Tensor) -> Tensor:
        """Return the weights (M, R), for a ridge of each of the values (R,)."""
        weights: Tensor = self._vectors @ (self._along / self._damped(ridges).T)
        return weights

    def _damped(self, ridges: Tensor) -> Tensor:
        tiny = torch.finfo(self.eigenvalues.dtype).tiny
        damped: Tensor = self.eigenvalues + ridges[:, None] + tiny
        return damped


def _both(even: Tensor, odd: Tensor) -> Tensor:
    """Return (2, ...), the values at points and at their opposites, from the two parts."""
    return torch.stack([even + odd, even - odd])
