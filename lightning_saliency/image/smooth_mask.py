"""Smooth masks: a coarse grid of numbers, spread by a kernel and joined by a soft maximum.

Section 3.2 of Fong, Patrick, Vedaldi. Understanding deep networks via extremal perturbations and
smooth masks. ICCV 2019, arXiv:1910.08485.

A pixel u sees the grid points k of a window around it. Point k, with the value m_k in [0, 1],
contributes a_k = w(distance / sigma) * m_k, where w is flat in the middle and falls off smoothly,
and the mask is the soft maximum::

    w(z) = exp(-2 * max(z - 1/2, 0)^2)
    M(u) = sum_k a_k e^(20 a_k) / sum_k e^(20 a_k)

How the sums are taken, in both directions, is in :mod:`~lightning_saliency.image.smooth_max`.
"""

import math

import torch
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.image.smooth_max import Window, smooth_max


class SmoothMask:
    """Masks for images of one size, as a differentiable function of a grid of numbers.

    Grid point (i, j) lies on pixel (i * step, j * step) of the image. The canvas is the image with
    a margin of ``sigma``, rounded, before it and almost as much behind it: all that the grid can
    reach. Points beyond the grid have the value 0.

    Args:
        size: (height, width) of the images, in pixels.
        step: distance of the grid points, in pixels, >= 1.
        sigma: radius of the kernel, in pixels, > 0.

    Attributes:
        grid_size: (rows, columns) of the grid.
        canvas_size: (height, width) of the canvas, in pixels.

    Raises:
        InputError: ``step`` or ``sigma`` is out of its range.
    """

    def __init__(self, size: tuple[int, int], step: int, sigma: float) -> None:
        if step < 1 or step != int(step):
            raise InputError(f"Expected step to be a whole number of pixels >= 1, got {step}.")
        if not 0 < sigma < math.inf:
            raise InputError(f"Expected sigma > 0 pixels, got {sigma}.")
        self.size = size
        self.step = int(step)
        self.sigma = float(sigma)
        self.grid_size = (math.ceil(size[0] / self.step), math.ceil(size[1] / self.step))
        self._radius = 1 + math.ceil(sigma / self.step)
        # Enough zeros around the grid for the outermost pixels of the canvas.
        self._padding = 1 + math.ceil(2 * sigma / self.step)
        self._margin = round(sigma)
        self._window = Window(self._weights(), 2 * self._radius + 1, self.step)
        cells = [points + 2 * (self._padding - self._radius) for points in self.grid_size]
        self.canvas_size = (self.step * (cells[0] - 1) + 1, self.step * (cells[1] - 1) + 1)

    def __call__(self, grid: Tensor) -> Tensor:
        """Return the masks on the image.

        Args:
            grid: (B, rows, columns), values in [0, 1], float32 or float64.

        Returns:
            (B, H, W), values in [0, 1], same dtype.

        Raises:
            InputError: ``grid`` has another shape or dtype.
        """
        first = (self._margin, self._margin)
        return self._masks(grid, first, self.size)

    def on_canvas(self, grid: Tensor) -> Tensor:
        """Return the masks on the whole canvas, (B, canvas height, canvas width).

        Args:
            grid: as for the call.
        """
        return self._masks(grid, (0, 0), self.canvas_size)

    def crop(self, canvas: Tensor) -> Tensor:
        """Return the image's part (B, H, W) of masks on the canvas."""
        rows, columns = (slice(self._margin, self._margin + length) for length in self.size)
        return canvas[:, rows, columns]

    def _masks(self, grid: Tensor, first: tuple[int, int], size: tuple[int, int]) -> Tensor:
        if grid.dim() != 3 or tuple(grid.shape[1:]) != self.grid_size:
            raise InputError(
                f"Expected grids of shape (B, {self.grid_size[0]}, {self.grid_size[1]}), got "
                f"{tuple(grid.shape)}."
            )
        if grid.dtype not in (torch.float32, torch.float64):
            raise InputError(f"Expected grids in float32 or float64, got {grid.dtype}.")
        window = smooth_max(self._padded(grid, first, size), self._window)
        # (row in cell, column in cell, mask, cell row, cell column) -> (mask, row, column)
        cells = window.shape[-2:]
        window = window.reshape(self.step, self.step, len(grid), *cells).permute(2, 3, 0, 4, 1)
        window = window.reshape(len(grid), cells[0] * self.step, cells[1] * self.step)
        top, left = first[0] % self.step, first[1] % self.step
        return window[:, top : top + size[0], left : left + size[1]]

    def _padded(self, grid: Tensor, first: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Cut or pad the grid so that it holds what the wanted pixels see, and no more."""
        pads: list[int] = []
        for axis in (1, 0):
            start = first[axis] // self.step
            stop = (first[axis] + size[axis] - 1) // self.step + 1 + 2 * self._radius
            # Negative padding cuts.
            pads += [self._padding - start, stop - self._padding - self.grid_size[axis]]
        return torch.nn.functional.pad(grid, pads)

    def _weights(self) -> Tensor:
        """Return w for (window point, position in the cell), both in row order."""
        inside = torch.arange(self.step, dtype=torch.float64)
        points = torch.arange(2 * self._radius + 1, dtype=torch.float64)
        offset = inside - self._margin - self.step * (points[:, None] - self._padding)
        square = offset[:, None, :, None] ** 2 + offset[None, :, None, :] ** 2
        weights = torch.exp(-2 * (square.sqrt() / self.sigma - 0.5).clamp(min=0) ** 2)
        return weights.flatten(2).flatten(0, 1)
