"""How RISE estimates its maps: which masks, which score, what is done to their products."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_saliency.image.random_mask import (
    MaskBlock,
    Upsampling,
    balanced_block_size,
    balanced_masks,
    independent_masks,
)
from lightning_saliency.network.score import ScoreKind

__all__ = ["ESTIMATORS", "RISEEstimator", "RISEPreset"]

RISEPreset: TypeAlias = Literal["paper", "torchray"]
"""A published estimator."""


@dataclass(frozen=True)
class RISEEstimator:
    """How scores and masks become a map, and what is used unless the user says otherwise.

    Attributes:
        num_masks: how many masks.
        score: what is averaged over them.
        balanced: whether the masks are balanced, if half of the cells are kept.
        centred: whether the mean score is subtracted.
        per_kept: whether the map is divided by the probability that a cell is kept.
        reflect: how the grid goes on beyond its border, see
            :class:`~lightning_saliency.image.random_mask.Upsampling`.
        block_size: how many independent masks are drawn together.
    """

    num_masks: int
    score: ScoreKind
    balanced: bool
    centred: bool
    per_kept: bool
    reflect: bool
    block_size: int

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

    def _balances(self, p: float) -> bool:
        return self.balanced and p == 0.5

    def divisor(self, p: float) -> float:
        """Return what the mean of score x mask is divided by, if cells are kept with ``p``."""
        return p if self.per_kept else 1.0


def _pair(num_cells: int | tuple[int, int]) -> tuple[int, int]:
    rows, columns = (num_cells, num_cells) if isinstance(num_cells, int) else num_cells
    return rows, columns


ESTIMATORS: dict[RISEPreset | None, RISEEstimator] = {
    None: RISEEstimator(
        num_masks=1024,
        score="probability",
        balanced=True,
        centred=True,
        per_kept=True,
        reflect=False,
        block_size=128,
    ),
    "paper": RISEEstimator(
        num_masks=8000,
        score="probability",
        balanced=False,
        centred=False,
        per_kept=True,
        reflect=False,
        block_size=128,
    ),
    # TorchRay draws its masks batch by batch, 32 at a time unless told otherwise.
    "torchray": RISEEstimator(
        num_masks=8000,
        score="sigmoid",
        balanced=False,
        centred=False,
        per_kept=False,
        reflect=True,
        block_size=32,
    ),
}
