"""Masks of exactly a given area, as near to 0 and 1 as one likes.

Any picture of numbers has, for each area, a level above which this share of its pixels lies. A
sigmoid around that level makes a mask of it::

    M(u) = sigmoid(contrast * (m(u) - level)),  with the level for which mean(M) = area

The level depends on all pixels: ``d level / d m(u) = s(u) / sum s``, with ``s = M (1 - M)``. So the
derivative passes a pixel's gradient on less the mean over the edges: what one pixel gains, the
others lose.
"""

from typing import Any

import torch
from torch import Tensor

# Sigmoids of this much are 0 or 1 in float32.
_SATURATED = 20.0

# So many halvings bring a level near enough for Newton's method; so many of its steps give the last
# digits of float32.
_HALVINGS = 6
_STEPS = 6

# A CPU takes at most so many numbers at once.
_LANES = 64


def exact_area(mask: Tensor, area: Tensor, contrast: float = 30.0) -> Tensor:
    """Raise the contrast around the level at which each mask has its area.

    The result tends to 1 at the pixels of the largest values, as many as the area asks for, and to
    0 elsewhere; the higher the contrast, the narrower the edges. The order of the pixels is kept,
    and those that are equal stay equal.

    Args:
        mask: (B, H, W), float32 or float64.
        area: (B,), fractions in (0, 1], same dtype.
        contrast: slope of the sigmoid, > 0.

    Returns:
        (B, H, W), in [0, 1], same dtype; differentiable with respect to ``mask``.
    """
    exact: Tensor = _ExactArea.apply(mask, area, contrast)
    return exact


class _ExactArea(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mask: Tensor, area: Tensor, contrast: float) -> Tensor:
        # A sigmoid of this is 0.
        pixels = _rows(mask, -torch.inf)
        exact = _contrasted(pixels, _level(pixels, area, contrast, mask[0].numel()), contrast)
        ctx.save_for_backward(exact)
        ctx.contrast = contrast
        return _pictures(exact, mask)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (exact,) = ctx.saved_tensors
        edges = exact * (1 - exact)
        slope = edges * _rows(gradients[0], 0.0)
        # A mask without edges, such as one of the area 1, has no slope either.
        total = edges.sum(1, keepdim=True).clamp_(min=torch.finfo(edges.dtype).tiny)
        slope -= edges.mul_(slope.sum(1, keepdim=True) / total)
        return _pictures(slope.mul_(ctx.contrast), gradients[0]), None, None


def _rows(pictures: Tensor, behind: float) -> Tensor:
    """Return the pixels of (B, H, W) in rows (B, P), in one piece; ``behind`` is what fills them.

    A CPU takes several numbers at once, and those that are left over in another way, which rounds
    differently; sums also depend on how the memory lies. With rows like these a mask is the same
    to the last bit, whatever others are made beside it, and so is a search with its many steps.
    """
    rows = pictures.flatten(1).contiguous()
    filling = -rows.shape[1] % _LANES
    return torch.nn.functional.pad(rows, (0, filling), value=behind) if filling else rows


def _pictures(rows: Tensor, like: Tensor) -> Tensor:
    """Return the pixels of rows as pictures again."""
    return rows[:, : like[0].numel()].reshape(like.shape)


def _contrasted(pixels: Tensor, level: Tensor, contrast: float) -> Tensor:
    return (pixels - level[:, None]).mul_(contrast).sigmoid_()


def _level(pixels: Tensor, area: Tensor, contrast: float, count: int) -> Tensor:
    """Find the levels: halve what is known to hold them, then Newton's method.

    Newton works on the log odds of the area, which are almost linear near the level; where a step
    leaves what is known to hold it, halve that instead. The number of steps is fixed, so that the
    host need not wait for the device.
    """
    low = pixels[:, :count].amin(1) - _SATURATED / contrast
    high = pixels.amax(1) + _SATURATED / contrast
    level = (low + high) / 2
    for step in range(_HALVINGS + _STEPS):
        current = _contrasted(pixels, level, contrast)
        mean = current.sum(1) / count
        low, high = torch.where(mean > area, level, low), torch.where(mean > area, high, level)
        middle = (low + high) / 2
        if step < _HALVINGS:
            level = middle
            continue
        edges = mean - current.square_().sum(1) / count
        odds = torch.logit(mean) - torch.logit(area)
        level = level + odds * mean * (1 - mean) / (contrast * edges)
        level = torch.where((low <= level) & (level <= high), level, middle)
    return level
