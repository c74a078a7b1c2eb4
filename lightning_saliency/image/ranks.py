"""Spearman's rank correlation."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["correlation_of_ranks", "mean_ranks", "rank_correlation"]


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's correlation along the last dimension; equal values share their mean rank.

    Args:
        first: (..., n), floating point.
        second: (..., n).

    Returns:
        (...), in [-1, 1]; NaN where one side is constant.

    Example:
        >>> values = torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> rank_correlation(values, values.exp())
        tensor(1.)
    """
    return correlation_of_ranks(mean_ranks(first), mean_ranks(second))


def mean_ranks(values: Tensor) -> Tensor:
    """Return the ranks along the last dimension, less their mean; equal values get their mean rank.

    Args:
        values: (..., n), floating point.

    Returns:
        The same shape and dtype. They are multiples of 1/2, so in float64 their sums are exact.
    """
    ordered, place = values.sort(-1)
    index = torch.arange(ordered.shape[-1], device=ordered.device)
    rises = ordered[..., 1:] > ordered[..., :-1]
    edge = torch.ones_like(ordered[..., :1], dtype=torch.bool)
    # Of each run of equal values the first and the last place.
    first = torch.where(torch.cat([edge, rises], -1), index, 0).cummax(-1).values
    last = torch.where(torch.cat([rises, edge], -1), index, len(index)).flip(-1).cummin(-1).values
    mean = (first + last.flip(-1)).to(values.dtype) / 2 - (len(index) - 1) / 2
    return torch.zeros_like(ordered).scatter_(-1, place, mean)


def correlation_of_ranks(first: Tensor, second: Tensor) -> Tensor:
    """Return the correlation of what :func:`mean_ranks` returned, along the last dimension.

    torchmetrics' ``spearman_corrcoef`` is not used: it adds up the ranks of ties in int32, which
    overflows from 65,536 values on, correlates in float32, and ranks row by row and pair by pair.

    Args:
        first: (..., n).
        second: (..., n).

    Returns:
        (...), in [-1, 1]; NaN where all ranks of one side are equal.
    """
    size = (first.square().sum(-1) * second.square().sum(-1)).sqrt()
    return ((first * second).sum(-1) / size).clamp(-1, 1)
