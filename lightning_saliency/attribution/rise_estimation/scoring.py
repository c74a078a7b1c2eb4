"""Run a model on the images under one block of masks after another."""

import warnings
from collections.abc import Callable

from torch import Tensor, nn

from lightning_saliency.attribution.progress import report
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.image.random_mask import MaskBlock
from lightning_saliency.network.batching import Batches
from lightning_saliency.network.masked_scores import masked_scores
from lightning_saliency.network.score import ScoreKind

__all__ = ["MaskScoring", "ScoreRange"]

# Probabilities in float32 that differ by less are the same, but for a few of their last digits.
_FLAT = 1e-6


class MaskScoring:
    """The scores of images under masks, with progress reports.

    Args:
        model: see :func:`~lightning_saliency.network.masked_scores.masked_scores`, as for
            ``batches`` and ``autocast``.
        batches: how many masked images go through the model at once.
        autocast: run the model under autocast to bfloat16.
        num_masks: how many masks there are in all blocks, for the progress that is reported.

    Attributes:
        batches: as given.
    """

    def __init__(self, model: nn.Module, batches: Batches, autocast: bool, num_masks: int) -> None:
        self._model = model
        self.batches = batches
        self._autocast = autocast
        self._num_masks = num_masks
        self._done = 0

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
            report(self._done + done // len(images), self._num_masks)

        scores = masked_scores(
            self._model, images, block.masks, score, self.batches, self._autocast, after
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
