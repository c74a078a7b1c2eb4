"""How far the map of each sample has moved, in one direction: 0 not at all, 1 altogether."""

import torch
from torch import Tensor

from lightning_saliency.image.saliency_map import degenerate
from lightning_saliency.metrics.map_similarity import RANKING


def movement(before: Tensor, now: Tensor) -> Tensor:
    """Return how far maps have moved, in [0, 1].

    Args:
        before: (N, 1, h, w).
        now: (N, 1, h, w), maps of the same images.

    Returns:
        (N,): 0 not at all, 1 altogether, or from a map that shows nothing to one that does; NaN
        where both show nothing.
    """
    moved = RANKING.amount(RANKING(now, before))
    return with_emptied(moved, degenerate(before), degenerate(now))


def with_emptied(moved: Tensor, before: Tensor, now: Tensor) -> Tensor:
    """Return movements where a map that shows nothing now, or did before, has moved altogether.

    Args:
        moved: (N,), NaN where a map shows nothing.
        before: (N,), bool, which maps showed nothing before.
        now: (N,), bool, which show nothing now.
    """
    return torch.where(before.to(moved.device) != now.to(moved.device), 1.0, moved)
