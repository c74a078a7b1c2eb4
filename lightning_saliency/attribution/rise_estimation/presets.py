"""How RISE estimates its maps: which masks, which score, which mean, for each preset."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_saliency.attribution.rise_estimation.estimators import MaskAverage
from lightning_saliency.attribution.rise_estimation.link_function import LinkFunction
from lightning_saliency.attribution.rise_estimation.regression import MaskRegression
from lightning_saliency.image.random_mask import (
    MaskBlock,
    Upsampling,
    balanced_block_size,
    balanced_masks,
    independent_masks,
)
from lightning_saliency.network.score import ScoreKind

RISEPreset: TypeAlias = Literal["paper", "torchray", "balanced"]
"""A published estimator, or the mean over balanced masks as it is."""

# A fit takes a time that grows with the third power of the number of masks. With more masks, the
# mean over them is good as it is.
_MOST_MASKS_OF_A_FIT = 1024


@dataclass(frozen=True)
class RISEEstimator:
    """How scores and masks become a map, and what is used by default.

    The settings' own defaults are those of the preset ``"balanced"``.

    Attributes:
        num_masks: how many masks.
        score: what is averaged over them.
        balanced: whether the masks are balanced, if half of the cells are kept.
        centered: whether the mean score is subtracted.
        fitted: whether the map comes from a regression on the scores, see :class:`MaskRegression`,
            where the masks are balanced and not too many.
        per_kept: whether the map is divided by the probability that a cell is kept.
        reflect: how the grid is continued beyond its border, see
            :class:`~lightning_saliency.image.random_mask.Upsampling`.
        block_size: how many independent masks are drawn together.
    """

    num_masks: int = 1024
    score: ScoreKind = "probability"
    balanced: bool = True
    centered: bool = True
    fitted: bool = False
    per_kept: bool = True
    reflect: bool = False
    block_size: int = 128

    def upsampling(self, image: Tensor, num_cells: int | tuple[int, int]) -> Upsampling:
        """Return how grids of ``num_cells`` become masks of the image's size.

        Args:
            image: (N, C, H, W).
            num_cells: cells of a grid along both sides, or (rows, columns).

        Raises:
            InputError: the grid is finer than the image.
        """
        return Upsampling(
            (image.shape[2], image.shape[3]),
            _pair(num_cells),
            self.reflect,
            image.device,
            torch.promote_types(image.dtype, torch.float32),
        )

    def masks(
        self, upsampling: Upsampling, num_masks: int | None, p: float, seed: int
    ) -> Iterator[MaskBlock]:
        """Yield blocks of masks, ``num_masks`` (or this estimator's own number) in all."""
        count = self.count(upsampling.num_cells, num_masks, p)
        if self._balances(p):
            return balanced_masks(upsampling, count, seed)
        return independent_masks(upsampling, count, p, seed, self.block_size)

    def count(self, num_cells: int | tuple[int, int], num_masks: int | None, p: float) -> int:
        """Return how many masks :meth:`masks` yields in all: whole blocks of balanced ones."""
        count = num_masks or self.num_masks
        if not self._balances(p):
            return count
        rows, columns = _pair(num_cells)
        block = balanced_block_size(rows * columns)
        return -(-count // block) * block

    def mask_estimator(
        self, num_masks: int, p: float, kind: ScoreKind | None, halves: bool = True
    ) -> MaskAverage | MaskRegression:
        """Return the estimator that the scores are added to.

        Args:
            num_masks: from :meth:`count`.
            p: probability that a cell is kept.
            kind: of the scores; None if it is not known.
            halves: whether the maps of two halves will be asked for.
        """
        if self.fitted and self._balances(p) and num_masks <= _MOST_MASKS_OF_A_FIT:
            return MaskRegression(LinkFunction(kind))
        return MaskAverage(halves)

    def _balances(self, p: float) -> bool:
        return self.balanced and p == 0.5

    def divisor(self, p: float) -> float:
        """Return what the mean of score x mask is divided by, if cells are kept with ``p``."""
        return p if self.per_kept else 1.0


def _pair(num_cells: int | tuple[int, int]) -> tuple[int, int]:
    rows, columns = (num_cells, num_cells) if isinstance(num_cells, int) else num_cells
    return rows, columns


ESTIMATORS: dict[RISEPreset | None, RISEEstimator] = {
    None: RISEEstimator(num_masks=256, fitted=True),
    "balanced": RISEEstimator(),
    "paper": RISEEstimator(num_masks=8000, balanced=False, centered=False),
    # TorchRay draws its masks batch by batch, 32 at a time by default.
    "torchray": RISEEstimator(
        num_masks=8000,
        score="sigmoid",
        balanced=False,
        centered=False,
        per_kept=False,
        reflect=True,
        block_size=32,
    ),
}
