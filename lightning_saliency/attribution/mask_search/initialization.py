"""Where a search for masks starts: from the rewards of a few coarse masks.

With the whole image visible, all derivatives may be almost zero: where the score is saturated, or
where one object speaks for the target and another one against it. A search that starts there
converges to an arbitrary mask. A few masks that each keep one part of the image, and their
opposites that each lack it, need no derivatives. A part that is enough alone is found by what it
keeps; one that is needed beside others, by what is lost without it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_saliency.image.exact_area import exact_area

# Discs around the centers of so many rows and columns, each of this share of the image.
_SIDE = 4
_AREA = 0.2
_CONTRAST = 60.0

# How far the initial grids deviate, at most, from 0.5.
_DEVIATION = 0.3


def coarse_masks(size: tuple[int, int], like: Tensor) -> Tensor:
    """Return masks that each keep a disc, cut off at the edges of the image; they overlap.

    Args:
        size: (height, width) of the images, in pixels.
        like: a tensor of their device and dtype, float32 or float64.

    Returns:
        (16, H, W), in [0, 1]; the discs' centers in row order. Each has 0.2 of the image.
    """
    rows, columns = (_centers(length, like) for length in size)
    middles = _centers(_SIDE, like)
    down, across = ((line[None] - middles[:, None]).square() for line in (rows, columns))
    distance = (down[:, None, :, None] + across[None, :, None, :]).flatten(0, 1)
    return exact_area(-distance, like.new_full((len(distance),), _AREA), _CONTRAST)


def initial_grids(rewards: Sequence[Tensor], masks: Tensor, step: int) -> Tensor:
    """Return grids that are higher where masks are rewarded more than others.

    Args:
        rewards: one or more (N, K), each of each image with each mask. What they say counts alike,
            whatever their scales.
        masks: (K, H, W).
        step: distance of the grid's points, in pixels.

    Returns:
        (N, rows, columns), in [0.2, 0.8]; 0.5 everywhere if all rewards are equal.
    """
    return torch.stack([_field(some, masks, step) for some in rewards]).mean(0)


def _field(rewards: Tensor, masks: Tensor, step: int) -> Tensor:
    more = rewards - rewards.mean(1, keepdim=True)
    sums = torch.einsum("nk,kyx->nyx", more.to(masks.dtype), masks[:, ::step, ::step])
    low, high = sums.amin((1, 2), keepdim=True), sums.amax((1, 2), keepdim=True)
    middle, half = (low + high) / 2, (high - low) / 2
    return 0.5 + _DEVIATION * (sums - middle) / half.clamp(min=torch.finfo(sums.dtype).tiny)


def _centers(count: int, like: Tensor) -> Tensor:
    """Return the centers of equal parts of [0, 1]."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count
