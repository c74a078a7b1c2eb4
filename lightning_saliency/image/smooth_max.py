"""The soft maximum of many weighted numbers around each pixel, and its derivative.

Pixel u sees the points k of a grid in a window around it, and takes from them
``sum_k a_k e^(T a_k) / sum_k e^(T a_k)`` with ``a_k = w(u, k) m_k`` and ``T = 20``. The derivative
is in closed form: ``dM/da_k = p_k (1 + T (a_k - M))`` with ``p_k = e^(T a_k) / sum e^(T a)``.

The weight depends only on where u lies within its cell of the grid, a square of ``step`` pixels.
That leaves two ways to sum, and neither keeps more than a few tensors of the size of the masks:

* by window point: one outer product (positions in a cell) x (cells) for each point of the window;
* by weight: many pairs of a position and a window point are equally far apart. For each distance
  the exponentials of the whole grid are taken once, and added wherever they are seen. At step 2
  and sigma 6 these are 45 sets of exponentials instead of 324, but for large steps there are many
  small sums.
"""

from collections import defaultdict
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

# The inverse temperature T of the soft maximum.
_COLDNESS = 20.0

# On a CPU, exponentials cost more than calls up to this step (measured); an accelerator waits for
# the calls.
_LARGEST_STEP_BY_WEIGHT = 4

# By window point, a CPU works on pieces of this many numbers: as many as its cache holds, since the
# calls for each piece take as long as the exponentials of a small one (measured).
_PIECE = 1 << 18


class Window:
    """What each pixel of a cell sees.

    Args:
        weights: (width * width, step * step), float64, on the CPU: w of each point of the window
            for each position in a cell, both in row order.
        width: points along one side of the window.
        step: pixels along one side of a cell.
    """

    def __init__(self, weights: Tensor, width: int, step: int) -> None:
        self.width = width
        self.step = step
        self._weights = weights
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def weights(self, grid: Tensor) -> Tensor:
        """Return the weights (points, positions), on the device and in the dtype of ``grid``."""
        key = (grid.device, grid.dtype)
        if key not in self._copies:
            self._copies[key] = self._weights.to(grid)
        return self._copies[key]

    @cached_property
    def places_by_weight(self) -> dict[float, list[tuple[int, int]]]:
        """For each weight, the (position in a cell, window point) that have it."""
        places = defaultdict(list)
        for point, row in enumerate(self._weights.tolist()):
            for position, weight in enumerate(row):
                # Rounded, since equal distances are computed in different ways.
                places[round(weight, 12)].append((position, point))
        return dict(places)

    def parts(self, grid: Tensor, first: int) -> list[tuple[slice, ...]]:
        """Return, for each window point, the index of the grid points that the cells see there.

        Args:
            grid: (rows, columns, ...) or (B, rows, columns).
            first: the dimension of the rows, 0 or 1.
        """
        rows, columns = (length - self.width + 1 for length in grid.shape[first : first + 2])
        before = (slice(None),) * first
        return [
            (*before, slice(y, y + rows), slice(x, x + columns))
            for y in range(self.width)
            for x in range(self.width)
        ]


def smooth_max(grid: Tensor, window: Window) -> Tensor:
    """Return the soft maximum for each position in each cell.

    Args:
        grid: (B, cell rows + width - 1, cell columns + width - 1), in [0, 1], float32 or float64.
        window: what the pixels see.

    Returns:
        (step * step, B, cell rows, cell columns), same dtype.
    """
    by_weight = grid.device.type == "cpu" and window.step <= _LARGEST_STEP_BY_WEIGHT
    mask: Tensor = (_ByWeight if by_weight else _ByPoint).apply(grid, window)
    return mask


class _ByWeight(torch.autograd.Function):
    """Masks lie in the last dimension, so that sums run over long rows."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, window: Window) -> Tensor:
        scaled = (grid * _COLDNESS).permute(1, 2, 0).contiguous()
        parts = window.parts(scaled, 0)
        cells = scaled[parts[0]].shape
        total, weighted = (scaled.new_zeros(window.step**2, *cells) for _ in "12")
        totals, weighteds = total.unbind(), weighted.unbind()
        exponent, power = torch.empty_like(scaled), torch.empty_like(scaled)
        for weight, places in window.places_by_weight.items():
            torch.mul(scaled, weight, out=exponent)
            torch.exp(exponent, out=power)
            exponent *= power
            for position, point in places:
                totals[position].add_(power[parts[point]])
                weighteds[position].add_(exponent[parts[point]])
        mask = weighted.div_(total).div_(_COLDNESS)
        ctx.save_for_backward(scaled, total, mask)
        ctx.window = window
        return mask.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        scaled, total, mask = ctx.saved_tensors
        parts = ctx.window.parts(scaled, 0)
        # In one piece, or each of the many sums below would run over short rows.
        gradient = gradients[0].permute(0, 2, 3, 1).contiguous()
        slope, start = _line(gradient, total, mask)
        slopes, starts = slope.unbind(), start.unbind()
        result, exponent, power, seen_slope, seen_start = (
            torch.empty_like(scaled) for _ in "12345"
        )
        result.zero_()
        for weight, places in ctx.window.places_by_weight.items():
            seen_slope.zero_()
            seen_start.zero_()
            for position, point in places:
                seen_slope[parts[point]] += slopes[position]
                seen_start[parts[point]] += starts[position]
            torch.mul(scaled, weight, out=exponent)
            torch.exp(exponent, out=power)
            seen_start.addcmul_(seen_slope, exponent)
            result.addcmul_(seen_start, power, value=weight)
        return result.permute(2, 0, 1), None


class _ByPoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, window: Window) -> Tensor:
        pieces = [_sums_by_point(piece, window) for piece in _pieces(grid, window)]
        total = torch.cat([total for total, _ in pieces], dim=1)
        mask = torch.cat([mask for _, mask in pieces], dim=1)
        ctx.save_for_backward(grid, total, mask)
        ctx.window = window
        return mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        grid, total, mask = ctx.saved_tensors
        results = []
        start = 0
        for piece in _pieces(grid, ctx.window):
            part = slice(start, start + len(piece))
            start += len(piece)
            line = _line(gradients[0][:, part], total[:, part], mask[:, part])
            results.append(_slope_by_point(piece, ctx.window, *line))
        return torch.cat(results), None


def _line(gradient: Tensor, total: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return s and t such that the derivative by a_k is ``e^(T a_k) (t + s T a_k)``."""
    slope = gradient / total
    return slope, torch.addcmul(slope, slope, mask, value=-_COLDNESS)


def _pieces(grid: Tensor, window: Window) -> tuple[Tensor, ...]:
    if grid.device.type != "cpu":
        return (grid,)
    return torch.split(grid, max(1, _PIECE // (window.step**2 * grid[0].numel())))


def _sums_by_point(grid: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    scaled = grid * _COLDNESS
    parts = window.parts(scaled, 1)
    shape = (window.step**2, *scaled[parts[0]].shape)
    total = scaled.new_zeros(shape).flatten(1)
    weighted, exponent, power = (torch.zeros_like(total) for _ in "123")
    for part, weight in zip(parts, window.weights(grid), strict=True):
        torch.mul(weight[:, None], scaled[part].reshape(1, -1), out=exponent)
        torch.exp(exponent, out=power)
        total += power
        weighted.addcmul_(exponent, power)
    mask = weighted.div_(total).div_(_COLDNESS)
    return total.view(shape), mask.view(shape)


def _slope_by_point(grid: Tensor, window: Window, slope: Tensor, start: Tensor) -> Tensor:
    scaled = grid * _COLDNESS
    result = torch.zeros_like(scaled)
    slope, start = slope.flatten(1), start.flatten(1)
    exponent, power = torch.empty_like(slope), torch.empty_like(slope)
    for part, weight in zip(window.parts(scaled, 1), window.weights(grid), strict=True):
        seen = scaled[part]
        torch.mul(weight[:, None], seen.reshape(1, -1), out=exponent)
        torch.exp(exponent, out=power)
        power *= torch.addcmul(start, slope, exponent, out=exponent)
        result[part] += torch.mv(power.t(), weight).view_as(seen)
    return result
