"""Scores of a mask for which the map of RISE is known: that of all masks that there are.

A mask is made of 7 x 7 cells that are kept or not, each with probability 1/2, and of a shift. So
the map, the covariance of the score with the mask over 1/2, is a sum over all shifts and over all
states of the cells that the score depends on. The other cells do not covary with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from lightning_saliency.attribution.rise_estimation.presets import ESTIMATORS, RISEPreset
from lightning_saliency.image.random_mask import Upsampling
from lightning_saliency.network.score import ScoreKind

SIDE = 28
CELLS = 7
UPSAMPLING = Upsampling((SIDE, SIDE), (CELLS, CELLS), dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class KnownMap:
    """A score of masks.

    Attributes:
        name: of the score.
        weights: (R, 28, 28); their sums over a mask are what the score depends on.
        score: the score (M,) for the sums (M, R); None for the sum of all.
        kind: what RISE takes it for.
    """

    name: str
    weights: Tensor
    score: Callable[[Tensor], Tensor] | None = None
    kind: ScoreKind | None = None

    def of_sums(self, sums: Tensor) -> Tensor:
        """Return the scores (M,) for sums (M, R)."""
        return sums.sum(1) if self.score is None else self.score(sums)

    def __call__(self, masks: Tensor) -> Tensor:
        """Return the scores (M,) of masks (M, 28, 28)."""
        return self.of_sums(torch.einsum("myx,ryx->mr", masks, self.weights))

    def exact(self) -> Tensor:
        """Return the map (28, 28)."""
        total = torch.zeros(SIDE, SIDE, dtype=torch.float64)
        shifts = list(product(UPSAMPLING.vertical, UPSAMPLING.horizontal))
        for vertical, horizontal in shifts:
            # What each cell adds to the sums if it is kept.
            parts = (vertical.T @ self.weights @ horizontal).flatten(1)
            total += vertical @ self._covariance(parts).view(CELLS, CELLS) @ horizontal.T
        return 2 * total / len(shifts)

    def _covariance(self, parts: Tensor) -> Tensor:
        """Return the covariance (cells,) of the score with each cell; parts is (R, cells)."""
        if self.score is None:
            return parts.sum(0) / 4
        found = torch.zeros(parts.shape[1], dtype=torch.float64)
        (cells,) = parts.abs().sum(0).nonzero(as_tuple=True)
        kept = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * len(cells))
        scores = self.of_sums(kept @ parts[:, cells].T)
        found[cells] = ((kept - 0.5) * (scores - scores.mean())[:, None]).mean(0)
        return found


def estimated(
    known: KnownMap, num_masks: int, seed: int, preset: RISEPreset | None = None
) -> Tensor:
    """Return the map (28, 28) that RISE makes of a number of masks."""
    estimator = ESTIMATORS[preset]
    average = estimator.mask_estimator(num_masks, 0.5, known.kind)
    for block in estimator.masks(UPSAMPLING, num_masks, 0.5, seed):
        average.add(known(block.masks[:, 0])[None, None], block)
    return average.mean(centered=True)[0, 0] / estimator.divisor(0.5)


def slope_error_bias(
    known: KnownMap, num_masks: int, seeds: int, preset: RISEPreset | None = None
) -> tuple[float, float, float, float]:
    """Return how far the maps of some seeds are from the exact one.

    Returns:
        The slope of their mean over the exact map; the error of one of them, the bias of the mean,
        and what the bias would be by chance alone. All but the slope are root mean squares over the
        map, relative to its largest value.
    """
    exact = known.exact()
    maps = torch.stack([estimated(known, num_masks, seed, preset) for seed in range(seeds)])
    mean, deviation = maps.mean(0), exact - exact.mean()
    slope = float((deviation * mean).sum() / deviation.square().sum())
    chance = maps.var(0).mean().div(seeds).sqrt()
    size = exact.abs().max()
    error, bias = (maps - exact).square().mean().sqrt(), (mean - exact).square().mean().sqrt()
    return slope, float(error / size), float(bias / size), float(chance / size)


def _rectangle(top: int, left: int, height: int, width: int) -> Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.float64)
    mask[top : top + height, left : left + width] = 1 / (height * width)
    return mask


def _checkers(size: int) -> Tensor:
    """Return squares of +1 and -1 within the middle of the picture, over their number of pixels."""
    index = torch.arange(SIDE) // size
    checkers = 1.0 - 2 * ((index[:, None] + index) % 2)
    checkers[:8] = checkers[-8:] = checkers[:, :8] = checkers[:, -8:] = 0
    return checkers.double()[None] / checkers.abs().sum()


_TWO = torch.stack([_rectangle(6, 6, 4, 4), _rectangle(17, 18, 4, 4)])

MAPS = (
    KnownMap("A * B", _TWO, lambda sums: sums.prod(1)),
    KnownMap("line", _rectangle(13, 4, 2, 20)[None]),
    KnownMap("AND, hard", _TWO, lambda sums: (sums > 0.5).all(1).double()),
    KnownMap("rare", _TWO, lambda sums: (30 * (sums.sum(1) - 1.6)).sigmoid(), "probability"),
    KnownMap("checkers of pixels", _checkers(1)),
    KnownMap("checkers of cells", _checkers(4)),
)
