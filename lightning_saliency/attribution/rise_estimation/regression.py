"""RISE's map by a kernel regression on the scores of few masks.

The map is a mean over all masks of score x mask. A mean over the few masks that the model has seen
has sampling noise; but scores change smoothly with the mask, so a kernel regression on them
predicts the scores of very many other masks, over which the mean is then taken (Rasmussen,
Ghahramani. Bayesian Monte Carlo. NIPS 2002).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.attribution.rise_estimation.estimators import MaskEstimator
from lightning_saliency.attribution.rise_estimation.kernel_ridge import KernelRidge, PairKernel
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
# Of so many masks the kernels are kept: six megabytes, or two of the 256 masks by default.
_KEPT_KERNELS = 512
# Of so many those with the population, too: eight megabytes for each of the features that a score
# has needed.
_KEPT_BETWEEN = 256
# Masks are smooth, and their means over so many places along each side tell them apart.
_PLACES = 8
# To these powers; what varies least is raised by this share of what varies most.
_WHITENED = (0.0, 0.5, 1.0)
_FLOOR = 0.01
# What comes between them and their predicted scores should fit into a processor's cache.
_BLOCKS_AT_ONCE = 4


class MaskRegression(MaskEstimator):
    """Maps from a regression on the scores of masks.

    It replaces a :class:`~.estimators.MaskAverage` that is centered. Each score has a fit of its
    own, in units in which scores add up better than they do as probabilities
    (:class:`LinkFunction`), and of features that suit it (:class:`_BestFit`). The mean over the
    masks of what a fit to all others leaves over is added in full, so that the map is not smoothed,
    whatever the fit. Only where the link bends the scores, and this mean is no larger than chance
    would make it, is it left out: a few large probabilities would be seen all over the map. All is
    computed on the CPU in float64.

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
        masks = _seen(blocks, upsampling)
        known, population = masks.known, masks.population
        values = scores.flatten(1, 2)
        fit = _BestFit(masks, self._link.transform(values))
        left_out = self._link.expected_score(fit.leave_one_out, fit.variance)
        trust = _slope_of_odd_parts(values, left_out)
        # Each cell is kept by half of the masks of a block, so mean scores cancel out.
        sums = [
            some.sum_of_grids(trust * predicted) / population.num_masks
            for some, predicted in self._predictions(fit, masks.parts, left_out.mean((0, 1)))
        ]
        residual = values - trust * left_out
        if not self._link.is_linear:
            residual = residual * _is_more_than_chance(residual, known.places.flatten(0, 1))
        residual = residual / known.num_masks
        sums.append(known.sum_of_grids(residual.view(scores.shape)))
        like = blocks[0].grids
        shifts = torch.cat([population.shifts, known.shifts])
        return upsampling.sum_of(torch.cat(sums).to(like.device, like.dtype), shifts)

    def _predictions(
        self, fit: _BestFit, parts: Sequence[_Pairs], mean: Tensor
    ) -> Iterator[tuple[_Pairs, Tensor]]:
        """Yield the parts of the population with their predicted scores (2, B, M / 2, R).

        What a fit to all other masks predicts for the masks of a balanced block is too good: the
        block is no random sample. So predictions for the population are nearer to their mean, and
        where a link bends them, their mean is another one. It is made ``mean`` (R,), that of the
        predictions that leave a mask out.
        """
        values = [fit(place) for place in range(len(parts))]
        if not self._link.is_linear:
            level = self._link.level(torch.cat(values, 1), fit.variance, mean)
            values = [some.add_(level) for some in values]
        for part, some in zip(parts, values, strict=True):
            scores = self._link.expected_score(some, fit.variance)
            yield part, scores.reshape(2, *part.places.shape[:2], -1)


class _Pairs(NamedTuple):
    """B balanced blocks of M masks, by their first halves: the second are their opposites.

    All is on the CPU.

    Attributes:
        grids: bool, (B, M / 2, rows, columns).
        shifts: int64, (B, 2).
        places: float64, (B, M / 2, down, across), the means of the masks over a few places along
            each side, less one half; those of the opposites are their negatives.
    """

    grids: Tensor
    shifts: Tensor
    places: Tensor

    @classmethod
    def of(cls, blocks: Sequence[MaskBlock], means: tuple[Tensor, Tensor]) -> _Pairs:
        """Return what is needed of blocks with one upsampling, whose means these are."""
        half = len(blocks[0]) // 2
        grids = torch.stack([block.grids[:half] for block in blocks]).bool().cpu()
        shifts = torch.cat([block.shifts[:1] for block in blocks])
        vertical, horizontal = (
            matrices[of_blocks] for matrices, of_blocks in zip(means, shifts.T, strict=True)
        )
        places = vertical[:, None] @ _signed(grids) @ horizontal[:, None].mT
        return cls(grids, shifts, places)

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


def _means(upsampling: Upsampling) -> tuple[Tensor, Tensor]:
    """Return what makes a grid the means of its mask, (shifts, places, cells) along each side."""
    vertical, horizontal = (
        F.adaptive_avg_pool1d(matrices.double().cpu().mT, _PLACES).mT
        for matrices in (upsampling.vertical, upsampling.horizontal)
    )
    return vertical, horizontal


class _Features(NamedTuple):
    """Products with places from the left, and from the right, float64."""

    down: Tensor
    across: Tensor

    def __call__(self, places: Tensor) -> Tensor:
        """Return the features (P, F) of places (P, down, across)."""
        return (self.down @ places @ self.across).flatten(1)


def _features(means: tuple[Tensor, Tensor]) -> list[_Features]:
    """Return the means over the places as they are, half whitened, and whitened.

    The means of smooth masks vary little from one place to the next: a score that depends on such
    detail looks like noise. Whitened they all vary alike.
    """
    second_moments = [(along @ along.mT).mean(0) for along in means]
    return [
        _Features(*(_power(moments, -whitened / 2) for moments in second_moments))
        for whitened in _WHITENED
    ]


def _power(moments: Tensor, exponent: float) -> Tensor:
    """Return the power of a symmetric matrix; the least of it does not go to infinity."""
    eigenvalues, vectors = torch.linalg.eigh(moments)
    raised: Tensor = (eigenvalues.clamp(min=0) + _FLOOR * eigenvalues[-1]) ** exponent
    power: Tensor = (vectors * raised) @ vectors.T
    return power


class _SeenMasks:
    """All of a map that depends on the masks alone: what is the same for every score under them.

    Args:
        known: the masks that the model has seen.
        population: those that the mean is taken over.
        means: what makes a grid the means of its mask, from :func:`_means`.

    Attributes:
        known: as given, as for ``population``.
        parts: the population, as many blocks at a time as are computed together.
        kernels: of the known masks, one for each of the features.
    """

    def __init__(self, known: _Pairs, population: _Pairs, means: tuple[Tensor, Tensor]) -> None:
        self.known, self.population = known, population
        self.parts = population.split(_BLOCKS_AT_ONCE)
        self._features = _features(means)
        places = known.places.flatten(0, 1)
        self.kernels = [PairKernel(some(places)) for some in self._features]
        self._is_kept = known.num_masks <= _KEPT_BETWEEN
        self._between: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def between(self, index: int, part: int) -> tuple[Tensor, Tensor]:
        """Return the even and the odd kernel of masks of the population with the known ones.

        They are kept for the next map: without the passes, most of its time goes into them.

        Args:
            index: of the features.
            part: of :attr:`parts`.

        Returns:
            (P, M) each, for P masks of the part and M known ones, opposites not counted; float64.
        """
        found = self._between.get((index, part))
        if found is None:
            places = self.parts[part].places.flatten(0, 1)
            found = self.kernels[index](self._features[index](places))
            if self._is_kept:
                self._between[index, part] = found
        return found


class _BestFit:
    """For each value the fit, of those with different features, with the least leave-one-out error.

    Args:
        masks: that were seen.
        values: (2, M, R), of the masks and of their opposites.

    Attributes:
        leave_one_out: see :class:`KernelRidge`, as for ``variance``.
    """

    def __init__(self, masks: _SeenMasks, values: Tensor) -> None:
        self._masks = masks
        fits = [KernelRidge(kernel, values) for kernel in masks.kernels]
        self.variance, best = torch.stack([fit.variance for fit in fits]).min(0)
        self.leave_one_out = torch.empty_like(values)
        self._parts = []
        for index, fit in enumerate(fits):
            (chosen,) = (best == index).nonzero(as_tuple=True)
            if len(chosen):
                self.leave_one_out[..., chosen] = fit.leave_one_out[..., chosen]
                self._parts.append((chosen, index, fit.select(chosen)))

    def __call__(self, part: int) -> Tensor:
        """Return the values (2, P, R) at the masks of a part, by its place, and their opposites."""
        found = [
            (chosen, fit.at(*self._masks.between(index, part)))
            for chosen, index, fit in self._parts
        ]
        if len(found) == 1:
            return found[0][1]
        values = found[0][1].new_empty(*found[0][1].shape[:2], len(self.variance))
        for chosen, some in found:
            values[..., chosen] = some
        return values


# The last ones, because a callback explains images of one size again and again, by the same masks.
_kept: list[tuple[object, _Pairs]] = []
_kept_masks: list[tuple[object, _SeenMasks]] = []


def _seen(blocks: Sequence[MaskBlock], upsampling: Upsampling) -> _SeenMasks:
    """Return what is known of masks without any score."""
    key, means = _key(upsampling), _means(upsampling)
    known = _Pairs.of(blocks, means)
    for others_key, others in _kept_masks:
        if others_key == key and all(map(torch.equal, others.known, known)):
            return others
    masks = _SeenMasks(known, _population(upsampling, means), means)
    if known.num_masks <= _KEPT_KERNELS:
        _kept_masks[:] = [(key, masks)]
    return masks


def _key(upsampling: Upsampling) -> object:
    """Return what tells the masks of one upsampling from those of another."""
    matrices = upsampling.vertical, upsampling.horizontal
    return (*(matrix.shape for matrix in matrices), matrices[0].dtype, upsampling.reflect)


def _population(upsampling: Upsampling, means: tuple[Tensor, Tensor]) -> _Pairs:
    """Return the masks that the mean is taken over."""
    key = _key(upsampling)
    for known, population in _kept:
        if known == key:
            return population
    rows, columns = upsampling.num_cells
    count = _POPULATION_BLOCKS * balanced_block_size(rows * columns)
    population = _Pairs.of(list(balanced_masks(upsampling, count, _POPULATION_SEED)), means)
    # A few megabytes; those of finer grids would be many.
    if count <= _KEPT_MASKS:
        _kept[:] = [(key, population)]
    return population


def _slope_of_odd_parts(values: Tensor, predicted: Tensor) -> Tensor:
    """Return how much predictions are worth (R,), in [0, 1]: values regressed on them.

    Only the odd part, what differs between a mask and its opposite, is seen in the map.

    Args:
        values: (2, M, R), at masks and at their opposites.
        predicted: likewise.
    """
    odd, predicted_odd = values[0] - values[1], predicted[0] - predicted[1]
    tiny = torch.finfo(values.dtype).tiny
    slope = (odd * predicted_odd).sum(0) / predicted_odd.square().sum(0).clamp(min=tiny)
    return slope.clamp(0, 1)


def _is_more_than_chance(residual: Tensor, places: Tensor) -> Tensor:
    """Return whether residuals have a map that is larger than independent ones would have, (R,).

    Args:
        residual: (2, M, R), at masks and at their opposites.
        places: (M, down, across), of the masks.
    """
    points = places.flatten(1)
    count = 2 * len(points)
    residual = residual - residual.mean((0, 1))
    found = ((residual[0] - residual[1]).T @ points / count).square().sum(1)
    chance = residual.square().mean((0, 1)) * points.square().sum(1).mean() / count
    return found > chance
