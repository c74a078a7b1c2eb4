"""Run a model on the images under one block of masks after another."""

from collections.abc import Callable

from torch import Tensor, nn

from lightning_saliency.attribution.progress import report
from lightning_saliency.image.random_mask import MaskBlock
from lightning_saliency.network.batching import Batches
from lightning_saliency.network.masked_scores import masked_scores

__all__ = ["MaskScoring"]


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
