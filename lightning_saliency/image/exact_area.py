"""Masks of exactly a given area, almost 0 or 1 everywhere."""

import torch
from torch import Tensor

__all__ = ["exact_area"]

# So many halvings leave less than float32 can tell.
_HALVINGS = 30


def exact_area(mask: Tensor, area: Tensor, contrast: float = 4.0) -> Tensor:
    """Raise or lower the contrast around the level at which each mask has its area.

    The result is ``clamp(1/2 + contrast * (mask - level), 0, 1)``, with the level, for each mask,
    that makes its mean the area: the pixels of the largest values, as many as the area asks for,
    with edges that are narrower than the mask's by the factor ``contrast``. Pixels that are equal
    stay equal.

    Args:
        mask: (B, H, W), in [0, 1], float32 or float64.
        area: (B,), fractions in (0, 1], same dtype.
        contrast: > 0.

    Returns:
        (B, H, W), in [0, 1], same dtype.
    """
    low, high = (mask.amin((1, 2)) - 0.5 / contrast), (mask.amax((1, 2)) + 0.5 / contrast)
    for _ in range(_HALVINGS):
        level = (low + high) / 2
        above = _contrasted(mask, level, contrast).mean((1, 2)) > area
        low, high = torch.where(above, level, low), torch.where(above, high, level)
    return _contrasted(mask, (low + high) / 2, contrast)


def _contrasted(mask: Tensor, level: Tensor, contrast: float) -> Tensor:
    return (mask - level[:, None, None]).mul_(contrast).add_(0.5).clamp_(0, 1)
