"""From the scores of images under masks to a map: the average that RISE takes over its masks."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_saliency.attribution.progress import report
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.image.random_mask import MaskBlock
from lightning_saliency.image.saliency_map import rank_correlation
from lightning_saliency.network.batching import Batches
from lightning_saliency.network.masked_scores import masked_scores
from lightning_saliency.network.score import ScoreKind

# Probabilities in float32 that differ by less are the same, but for a few of their last digits.
_FLAT = 1e-6


@dataclass(frozen=True)
class RISEEstimate:
    """Maps, and how far they can be trusted.

    Attributes:
        saliency: (N, 1, H, W), the maps.
        split_half: (N,), Spearman correlation between the map from one half of the masks and the
            map from the other; NaN where there are no two halves or one of them is constant. With
            a correlation of r, that of the whole map with the map of infinitely many masks is
            about ``sqrt(2 * r / (1 + r))`` (Spearman 1910, Brown 1910): 0.82 stands for 0.95. It
            estimates how much the order of the pixels depends on the choice of the masks, in all
            of the image, also where the map is flat. It knows nothing of an error that both halves
            share, nor of how large the values are.
        num_masks: (N,), int64, how many masks were used.
    """

    saliency: Tensor
    split_half: Tensor
    num_masks: Tensor


def estimate_maps(
    blocks: Iterable[MaskBlock],
    scores: Callable[[MaskBlock, Tensor], Tensor],
    image_indices: Tensor,
    average: MaskEstimator,
    centered: bool,
    until: float | None = None,
    with_split_half: bool = True,
) -> RISEEstimate:
    """Return the mean over masks of score x mask for each image, and the images' own errors.

    Args:
        blocks: the masks, at least one block.
        scores: takes a block and the indices (n,) of the images that still need it; returns their
            scores (n, 1, M) under its masks.
        image_indices: (N,), int64: 0, 1, ..., on the images' device.
        average: the estimator, without scores yet.
        centered: subtract the mean score, see :meth:`MaskAverage.mean`.
        until: an image needs no more masks once its split-half correlation is at least this,
            checked after every second block; None for all blocks.
        with_split_half: False leaves the split-half correlations out; they are NaN then.
    """
    running = image_indices
    finished: list[tuple[Tensor, RISEEstimate]] = []
    for block in blocks:
        average.add(scores(block, running), block)
        if until is None or average.num_blocks % 2:
            continue
        reached = average.split_half(centered)[:, 0] >= until
        if bool(reached.any()):
            finished.append(
                (running[reached], _summary(average.select(reached), centered, with_split_half))
            )
            average, running = average.select(~reached), running[~reached]
            if not len(running):
                break
    if len(running):
        finished.append((running, _summary(average, centered, with_split_half)))
    order = torch.cat([indices for indices, _ in finished]).argsort()
    return RISEEstimate(
        torch.cat([estimate.saliency for _, estimate in finished])[order],
        torch.cat([estimate.split_half for _, estimate in finished])[order],
        torch.cat([estimate.num_masks for _, estimate in finished])[order],
    )


def _summary(average: MaskEstimator, centered: bool, with_split_half: bool) -> RISEEstimate:
    saliency = average.mean(centered)
    counts = torch.full((len(saliency),), average.num_masks, device=saliency.device)
    split_half = saliency.new_full((len(saliency),), torch.nan)
    if with_split_half:
        split_half = average.split_half(centered)[:, 0]
    return RISEEstimate(saliency, split_half, counts)


class MaskEstimator(ABC):
    """Estimates maps from the scores of masks, which are added block by block."""

    def __init__(self) -> None:
        self._counts: list[int] = []

    @property
    def num_blocks(self) -> int:
        """How many blocks were added."""
        return len(self._counts)

    @property
    def num_masks(self) -> int:
        """How many masks were added."""
        return sum(self._counts)

    @abstractmethod
    def add(self, scores: Tensor, block: MaskBlock) -> None:
        """Add the scores of a block of masks.

        Args:
            scores: (N, K, M), K scores of each image under each of the M masks.
            block: the masks.
        """

    @abstractmethod
    def mean(self, centered: bool, half: int | None = None) -> Tensor:
        """Return the mean over the masks of score x mask, for each pixel.

        Args:
            centered: take mean((score - mean score) x mask) instead: the covariance of the score
                with the mask.
            half: 0 or 1 for the masks of one half, None for all.

        Returns:
            (N, K, H, W).
        """

    @abstractmethod
    def select(self, images: Tensor) -> Self:
        """Return the estimator of some of the images.

        Args:
            images: bool, (N,).
        """

    def split_half(self, centered: bool) -> Tensor:
        """Return the Spearman correlation between the maps of the two halves, shape (N, K).

        NaN if only one half has masks, or a map is constant.

        Args:
            centered: as for :meth:`mean`.
        """
        first = self.mean(centered, 0)
        if self.num_blocks < 2:
            return torch.full_like(first[..., 0, 0], torch.nan)
        return rank_correlation(first.flatten(2), self.mean(centered, 1).flatten(2))


class MaskAverage(MaskEstimator):
    """The mean over masks of score x mask, summed block by block, in two halves.

    Only sums are kept, so the memory does not grow with the number of masks. The blocks go to one
    half and the other in turn; how well the maps of the halves agree says how much noise there is.

    Args:
        halves: False keeps one sum for all masks, which takes half the memory.
    """

    def __init__(self, halves: bool = True) -> None:
        super().__init__()
        self._halves = halves
        self._reference: Tensor
        self._scores: Tensor
        self._masks: Tensor
        self._weighted: Tensor

    def add(self, scores: Tensor, block: MaskBlock) -> None:
        """Add the scores of a block of masks; see :meth:`MaskEstimator.add`."""
        # A model may compute in another precision than its input has.
        scores = scores.to(block.grids.dtype)
        if not self._counts:
            self._begin(scores, block)
        half = self.num_blocks % len(self._weighted)
        self._counts.append(len(block))
        # Scores near their mean keep the sums small, and with them the rounding errors.
        deviations = scores - self._reference[..., None]
        block.add_weighted(deviations, self._weighted[half])
        block.add_weighted(torch.ones_like(scores[0, 0]), self._masks[half])
        self._scores[half] += deviations.sum(-1)

    def _begin(self, scores: Tensor, block: MaskBlock) -> None:
        self._reference = scores.mean(-1)
        parts = 2 if self._halves else 1
        size = (block.upsampling.vertical.shape[1], block.upsampling.horizontal.shape[1])
        self._scores = scores.new_zeros(parts, *scores.shape[:2])
        self._masks = scores.new_zeros(parts, *size)
        self._weighted = scores.new_zeros(parts, *scores.shape[:2], *size)

    def mean(self, centered: bool, half: int | None = None) -> Tensor:
        """Return the mean over the masks, (N, K, H, W); see :meth:`MaskEstimator.mean`."""
        if half is None and len(self._weighted) > 1:
            count = self.num_masks
            scores, masks, weighted = self._scores.sum(0), self._masks.sum(0), self._weighted.sum(0)
        else:
            part = half or 0
            count = sum(self._counts[part :: len(self._weighted)])
            scores, masks, weighted = self._scores[part], self._masks[part], self._weighted[part]
        level = -scores / count if centered else self._reference
        return torch.addcmul(weighted, level[..., None, None], masks).div_(count)

    def select(self, images: Tensor) -> MaskAverage:
        """Return the sums of some of the images; ``images`` is bool, (N,)."""
        chosen = MaskAverage(self._halves)
        chosen._counts = list(self._counts)
        chosen._masks = self._masks
        chosen._reference = self._reference[images]
        chosen._scores = self._scores[:, images]
        chosen._weighted = self._weighted[:, images]
        return chosen


@dataclass
class MaskScoring:
    """The scores of images under masks, with progress reports.

    Args:
        model: see :func:`~lightning_saliency.network.masked_scores.masked_scores`, as for
            ``batches`` and ``autocast``.
        batches: how many masked images go through the model at once.
        autocast: run the model under autocast to bfloat16.
        num_masks: how many masks there are in all blocks, for the progress that is reported.
    """

    model: nn.Module
    batches: Batches
    autocast: bool
    num_masks: int
    _done: int = field(default=0, init=False)

    def __call__(
        self, images: Tensor, block: MaskBlock, score: Callable[[object, Tensor], Tensor]
    ) -> Tensor:
        """Return the scores (N, K, M) of images (N, C, H, W) under the M masks of a block.

        Args:
            images: those that still need masks.
            block: the next masks.
            score: see :func:`~lightning_saliency.network.masked_scores.masked_scores`.
        """

        def after(done: int) -> None:
            report(self._done + done // len(images), self.num_masks)

        scores = masked_scores(
            self.model, images, block.masks, score, self.batches, self.autocast, after
        )
        self._done += len(block)
        return scores


class ScoreRange:
    """The lowest and the highest score of each image so far.

    Args:
        like: (N, ...), of the images' device.
        kind: of the scores; None if it is not known.
    """

    def __init__(self, like: Tensor, kind: ScoreKind | None) -> None:
        self._kind = kind
        self._low = like.new_full((len(like),), float("inf")).float()
        self._high = -self._low

    def add(self, scores: Tensor, images: Tensor) -> None:
        """See the scores (n, K, M) of some images, whose indices are (n,)."""
        low, high = scores.float().flatten(1).aminmax(dim=1)
        self._low[images] = self._low[images].minimum(low)
        self._high[images] = self._high[images].maximum(high)

    def warn_if_flat(self) -> None:
        """Warn of images whose probabilities no mask changes; the host waits for the device."""
        if self._kind is None or self._kind == "logit":
            return
        name = self._kind.replace("_", "-")
        flat = int(((self._high - self._low) < _FLAT).sum())
        if flat:
            warnings.warn(
                f"RISE: the {name} of the target is the same under all masks for {flat} of "
                f"{len(self._low)} images, so that their maps are empty. The network is sure of "
                "its class, or of another one, whatever it sees; logits still differ: take "
                "score='logit'.",
                SaliencyWarning,
                stacklevel=2,
            )
