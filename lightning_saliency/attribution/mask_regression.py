"""RISE's map by way of a smooth function that is fitted to the scores of few masks.

The map is a mean over all masks of score x mask. A mean over the few masks that the model has seen
misses it by chance; but scores change smoothly with the mask, so a function that is fitted to them
foretells the scores of very many other masks, of which the mean is then taken (Rasmussen,
Ghahramani. Bayesian Monte Carlo. NIPS 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_saliency.attribution.mask_average import MaskGatherer
from lightning_saliency.attribution.score_link import ScoreLink
from lightning_saliency.attribution.smooth_fit import SmoothFit
from lightning_saliency.image.random_mask import (
    MaskBlock,
    Upsampling,
    balanced_block_size,
    balanced_masks,
)

__all__ = ["MaskRegression"]

# Enough that neither the masks that the mean is taken over nor their shifts are seen in the map.
_POPULATION_BLOCKS = 64
_POPULATION_SEED = 20_000_000
# Of a population that is kept for the next map; that of 7 x 7 cells has as many.
_KEPT_MASKS = 8192
# Masks are smooth, and their means over so many places along each side tell them apart.
_PLACES = 8


class MaskRegression(MaskGatherer):
    """Scores of masks, gathered block by block, and the maps that follow from a fit to them.

    It stands in the place of a :class:`~lightning_saliency.attribution.mask_average.MaskAverage`
    that is centred. The fit is made for each score by itself, in units in which scores add up
    better than they do as probabilities (:class:`ScoreLink`). What it leaves over is averaged as
    it is and added, weighed down as far as it looks like chance, so that with many masks the map
    becomes the paper's, however bad the fit. All is computed on the CPU in float64.

    Args:
        link: what the scores are.
    """

    def __init__(self, link: ScoreLink) -> None:
        self._link = link
        self._blocks: list[MaskBlock] = []
        self._scores: list[Tensor] = []

    @property
    def num_blocks(self) -> int:
        """How many blocks were added."""
        return len(self._blocks)

    @property
    def num_masks(self) -> int:
        """How many masks were added."""
        return sum(map(len, self._blocks))

    def add(self, scores: Tensor, block: MaskBlock) -> None:
        """Add the scores of a block of masks.

        Args:
            scores: (N, K, M), K scores of each image under each of the M masks.
            block: the masks, all with one shift.
        """
        self._scores.append(scores)
        # Its masks, which it holds once they were asked for, are of the size of images.
        self._blocks.append(MaskBlock(block.grids, block.shifts, block.upsampling))

    def mean(self, centred: bool = True, half: int | None = None) -> Tensor:
        """Return the mean over all masks of (score - mean score) x mask, for each pixel.

        Args:
            centred: it always is; the argument is that of a mean which need not be.
            half: 0 or 1 to learn from every second block only, None from all.

        Returns:
            (N, K, H, W).
        """
        chosen = slice(None) if half is None else slice(half, None, 2)
        blocks, scores = self._blocks[chosen], torch.cat(self._scores[chosen], -1)
        flat = scores.double().cpu().flatten(0, 1).T
        maps = self._maps(blocks, flat, blocks[0].upsampling)
        return maps.reshape(*scores.shape[:2], *maps.shape[1:])

    def select(self, images: Tensor) -> MaskRegression:
        """Return the scores of some of the images.

        Args:
            images: bool, (N,).
        """
        chosen = MaskRegression(self._link)
        chosen._blocks = list(self._blocks)
        chosen._scores = [scores[images] for scores in self._scores]
        return chosen

    def _maps(self, blocks: Sequence[MaskBlock], scores: Tensor, upsampling: Upsampling) -> Tensor:
        """Return maps (R, H, W) for scores (M, R)."""
        places = _Places(upsampling)
        known = torch.cat([places.of(block) for block in blocks])
        fit = SmoothFit(known, self._link.to_line(scores))
        everything = _population(upsampling, places)
        # Each cell is kept by half of the masks of a block, so mean scores cancel out.
        sums = [
            _sum_of_grids(grids, self._link.from_line(fit(of_block), fit.variance))
            / (len(grids) * len(everything.places))
            for grids, of_block in zip(everything.grids, everything.places, strict=True)
        ]
        left_over = scores - self._link.from_line(fit.left_out, fit.variance)
        left_over = left_over * _share(left_over, known) / len(scores)
        parts = torch.split(left_over, [len(block) for block in blocks])
        sums += [
            _sum_of_grids(block.grids, part) for block, part in zip(blocks, parts, strict=True)
        ]
        like = blocks[0].grids
        shifts = torch.cat([everything.shifts, *[block.shifts[:1] for block in blocks]])
        return upsampling.sum_of(torch.stack(sums).to(like.device, like.dtype), shifts)


class _Population(NamedTuple):
    """The masks that the mean is taken over, in B blocks of M.

    Attributes:
        grids: bool, (B, M, rows, columns).
        shifts: int64, (B, 2).
        places: float64, (B, M, places).
    """

    grids: Tensor
    shifts: Tensor
    places: Tensor


# The last one, because a callback explains images of one size again and again.
_kept: list[tuple[object, _Population]] = []


def _population(upsampling: Upsampling, places: _Places) -> _Population:
    matrices = upsampling.vertical, upsampling.horizontal
    key = (*(matrix.shape for matrix in matrices), matrices[0].dtype, upsampling.reflect)
    for known, population in _kept:
        if known == key:
            return population
    rows, columns = upsampling.num_cells
    count = _POPULATION_BLOCKS * balanced_block_size(rows * columns)
    blocks = list(balanced_masks(upsampling, count, _POPULATION_SEED))
    population = _Population(
        torch.stack([block.grids for block in blocks]).bool().cpu(),
        torch.cat([block.shifts for block in blocks]),
        torch.stack([places.of(block) for block in blocks]),
    )
    # A few megabytes; those of finer grids would be many.
    if count <= _KEPT_MASKS:
        _kept[:] = [(key, population)]
    return population


def _share(left_over: Tensor, known: Tensor) -> Tensor:
    """Return the share of the left-over's map that is not chance (R,), in [0, 1].

    James and Stein's estimator, in its positive form: what independent left-overs would put into
    the map is known, and anything beyond is taken to be real.
    """
    left_over = left_over - left_over.mean(0)
    found = (left_over.T @ known / len(known)).square().sum(1)
    chance = left_over.square().mean(0) * known.square().sum(1).mean() / len(known)
    return (1 - chance / found.clamp(min=torch.finfo(found.dtype).tiny)).clamp(min=0)


class _Places:
    """The means of masks over a few places, less one half, computed from their grids."""

    def __init__(self, upsampling: Upsampling) -> None:
        self._vertical, self._horizontal = (
            torch.nn.functional.adaptive_avg_pool1d(matrices.double().cpu().mT, _PLACES).mT
            for matrices in (upsampling.vertical, upsampling.horizontal)
        )

    def of(self, block: MaskBlock) -> Tensor:
        """Return (M, places), float64 on the CPU."""
        down, right = block.shifts[:, 0], block.shifts[:, 1]
        grids = block.grids.double().cpu() - 0.5
        return (self._vertical[down] @ grids @ self._horizontal[right].mT).flatten(1)


def _sum_of_grids(grids: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of grids (M, rows, columns) (R, rows, columns), each times its weights."""
    signed = grids.double().cpu() - 0.5
    return (weights.T @ signed.flatten(1)).reshape(-1, *grids.shape[1:])
