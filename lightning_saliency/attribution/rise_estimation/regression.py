"""RISE's map by a kernel regression on the scores of few masks.

The map is a mean over all masks of score x mask. A mean over the few masks that the model has seen
has sampling noise; but scores change smoothly with the mask, so a kernel regression on them
predicts the scores of very many other masks, over which the mean is then taken (Rasmussen,
Ghahramani. Bayesian Monte Carlo. NIPS 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.attribution.rise_estimation.estimators import MaskEstimator
from lightning_saliency.attribution.rise_estimation.kernel_ridge import KernelRidge
from lightning_saliency.attribution.rise_estimation.link_function import LinkFunction
from lightning_saliency.image.random_mask import (
    MaskBlock,
    Upsampling,
    balanced_block_size,
    balanced_masks,
)

# Enough that neither the masks that the mean is taken over nor their shifts are seen in the map.
_POPULATION_BLOCKS = 64
_POPULATION_SEED = 20_000_000
# Of a population that is kept for the next map; that of 7 x 7 cells has as many.
_KEPT_MASKS = 8192
# Masks are smooth, and their means over so many places along each side tell them apart.
_PLACES = 8
# What comes between them and their predicted scores should fit into a processor's cache.
_BLOCKS_AT_ONCE = 4


class MaskRegression(MaskEstimator):
    """Maps from a regression on the scores of masks.

    It replaces a :class:`~.estimators.MaskAverage` that is centered. Each score has a fit of its
    own, in units in which scores add up better than they do as probabilities
    (:class:`LinkFunction`). The mean of its residuals is added, shrunk as far as it may be chance,
    so that with many masks the map converges to the paper's, however bad the fit. All is computed
    on the CPU in float64.

    Args:
        link: of the scores.
    """

    def __init__(self, link: LinkFunction) -> None:
        super().__init__()
        self._link = link
        self._blocks: list[MaskBlock] = []
        self._scores: list[Tensor] = []

    def add(self, scores: Tensor, block: MaskBlock) -> None:
        """Add the scores of a block of masks.

        Args:
            scores: (N, K, M), K scores of each image under each of the M masks.
            block: the masks, a block of
                :func:`~lightning_saliency.image.random_mask.balanced_masks`.
        """
        self._counts.append(len(block))
        self._scores.append(scores)
        # Its masks, which it holds once they were asked for, are of the size of images.
        self._blocks.append(MaskBlock(block.grids, block.shifts, block.upsampling))

    def mean(self, centered: bool = True, half: int | None = None) -> Tensor:
        """Return the mean over all masks of (score - mean score) x mask, for each pixel.

        Args:
            centered: it always is; the argument is that of a mean which need not be.
            half: 0 or 1 to learn from every second block only, None from all.

        Returns:
            (N, K, H, W).
        """
        chosen = slice(None) if half is None else slice(half, None, 2)
        blocks, scores = self._blocks[chosen], torch.cat(self._scores[chosen], -1)
        # The second half of a block is the first one's opposite.
        parts = scores.double().cpu().reshape(-1, len(blocks), 2, len(blocks[0]) // 2)
        maps = self._maps(blocks, parts.permute(2, 1, 3, 0), blocks[0].upsampling)
        return maps.reshape(*scores.shape[:2], *maps.shape[1:])

    def select(self, images: Tensor) -> MaskRegression:
        """Return the scores of some of the images.

        Args:
            images: bool, (N,).
        """
        chosen = MaskRegression(self._link)
        chosen._counts, chosen._blocks = list(self._counts), list(self._blocks)
        chosen._scores = [scores[images] for scores in self._scores]
        return chosen

    def _maps(self, blocks: Sequence[MaskBlock], scores: Tensor, upsampling: Upsampling) -> Tensor:
        """Return maps (R, H, W) for scores (2, B, M / 2, R) of B blocks of M masks."""
        known, population = _Pairs.of(blocks), _population(upsampling)
        points = known.places.flatten(0, 1)
        values = scores.flatten(1, 2)
        fit = KernelRidge(points, self._link.transform(values))
        # Each cell is kept by half of the masks of a block, so mean scores cancel out.
        sums = [
            some.sum_of_grids(self._predict(fit, some.places)) / population.num_masks
            for some in population.split(_BLOCKS_AT_ONCE)
        ]
        residual = values - self._link.expected_score(fit.leave_one_out, fit.variance)
        residual = residual * _signal_share(residual, points) / known.num_masks
        sums.append(known.sum_of_grids(residual.view(scores.shape)))
        like = blocks[0].grids
        shifts = torch.cat([population.shifts, known.shifts])
        return upsampling.sum_of(torch.cat(sums).to(like.device, like.dtype), shifts)

    def _predict(self, fit: KernelRidge, places: Tensor) -> Tensor:
        """Return the predicted scores (2, B, M / 2, R) for places (B, M / 2, places)."""
        values = fit(places.flatten(0, 1))
        return self._link.expected_score(values, fit.variance).reshape(2, *places.shape[:2], -1)


class _Pairs(NamedTuple):
    """B balanced blocks of M masks, by their first halves: the second are their opposites.

    All is on the CPU.

    Attributes:
        grids: bool, (B, M / 2, rows, columns).
        shifts: int64, (B, 2).
        places: float64, (B, M / 2, places), the means of the masks over a few places, less one
            half; those of the opposites are their negatives.
    """

    grids: Tensor
    shifts: Tensor
    places: Tensor

    @classmethod
    def of(cls, blocks: Sequence[MaskBlock]) -> _Pairs:
        """Return what is needed of blocks with one upsampling."""
        first, half = blocks[0], len(blocks[0]) // 2
        grids = torch.stack([block.grids[:half] for block in blocks]).bool().cpu()
        shifts = torch.cat([block.shifts[:1] for block in blocks])
        vertical, horizontal = (
            F.adaptive_avg_pool1d(matrices.double().cpu().mT, _PLACES).mT[of_blocks]
            for matrices, of_blocks in zip(
                (first.upsampling.vertical, first.upsampling.horizontal), shifts.T, strict=True
            )
        )
        places = vertical[:, None] @ _signed(grids) @ horizontal[:, None].mT
        return cls(grids, shifts, places.flatten(2))

    @property
    def num_masks(self) -> int:
        """How many masks there are, opposites included."""
        return 2 * self.grids.shape[0] * self.grids.shape[1]

    def split(self, size: int) -> list[_Pairs]:
        """Return the blocks, ``size`` at a time."""
        return [_Pairs(*parts) for parts in zip(*(torch.split(t, size) for t in self), strict=True)]

    def sum_of_grids(self, weights: Tensor) -> Tensor:
        """Return for each block the sum of its grids, each times its weights.

        Args:
            weights: (2, B, M / 2, R), of the first halves and of their opposites.

        Returns:
            (B, R, rows, columns).
        """
        sums = (weights[0] - weights[1]).mT @ _signed(self.grids).flatten(2)
        return sums.reshape(*sums.shape[:2], *self.grids.shape[2:])


def _signed(grids: Tensor) -> Tensor:
    """Return 1/2 where a cell is kept and -1/2 where it is not, float64."""
    return grids.double() - 0.5


# The last one, because a callback explains images of one size again and again.
_kept: list[tuple[object, _Pairs]] = []


def _population(upsampling: Upsampling) -> _Pairs:
    """Return the masks that the mean is taken over."""
    matrices = upsampling.vertical, upsampling.horizontal
    key = (*(matrix.shape for matrix in matrices), matrices[0].dtype, upsampling.reflect)
    for known, population in _kept:
        if known == key:
            return population
    rows, columns = upsampling.num_cells
    count = _POPULATION_BLOCKS * balanced_block_size(rows * columns)
    population = _Pairs.of(list(balanced_masks(upsampling, count, _POPULATION_SEED)))
    # A few megabytes; those of finer grids would be many.
    if count <= _KEPT_MASKS:
        _kept[:] = [(key, population)]
    return population


def _signal_share(residual: Tensor, points: Tensor) -> Tensor:
    """Return the share of the residuals' map that is not chance (R,), in [0, 1].

    The positive-part James-Stein estimator: the variance that independent residuals would have
    in the map is known, and anything beyond it is taken to be signal.

    Args:
        residual: (2, M, R), at points and at their opposites.
        points: (M, places).
    """
    count = 2 * len(points)
    residual = residual - residual.mean((0, 1))
    found = ((residual[0] - residual[1]).T @ points / count).square().sum(1)
    chance = residual.square().mean((0, 1)) * points.square().sum(1).mean() / count
    return (1 - chance / found.clamp(min=torch.finfo(found.dtype).tiny)).clamp(min=0)
