"""Score many masked versions of images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_saliency.errors import ModelError
from lightning_saliency.network.batching import Batches
from lightning_saliency.network.score import (
    ScoreKind,
    Target,
    all_class_scores,
    class_logits,
    class_scores,
    target_classes,
)


def masked_scores(
    model: nn.Module,
    image: Tensor,
    masks: Tensor,
    score: Callable[[object, Tensor], Tensor],
    batches: Batches,
    autocast: bool = False,
    after: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the scores of each image times each mask.

    No more than one batch of masked images is in memory at a time. Call this inside
    :func:`~lightning_saliency.network.isolation.undisturbed.undisturbed` and ``torch.no_grad()``.

    Args:
        model: takes images and returns something that ``score`` understands.
        image: (N, C, H, W).
        masks: (M, 1, H, W), shared by the images.
        score: takes the model's output for some masked images, and for each of them which of the
            N images it was made of (int64); returns its K scores, (rows, K).
        batches: how many masked images go through the model at once.
        autocast: run the model under autocast to bfloat16.
        after: called after each batch with how many masked images are done.

    Returns:
        (N, K, M), float32 at least.

    Raises:
        ModelError: the model did not return one row for each masked image.
    """
    masks = masks.to(image.dtype)

    def work(batch: slice) -> Tensor:
        rows = torch.arange(batch.start, batch.stop, device=image.device)
        with torch.autocast(image.device.type, torch.bfloat16, enabled=autocast):
            output = model(_masked(image, masks, batch))
        scores = score(output, rows // len(masks))
        if len(scores) != len(rows):
            raise ModelError(
                f"Expected the model to return one row of scores for each of the {len(rows)} "
                f"images of a batch, but it returned {len(scores)}."
            )
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    scores = torch.cat(batches.run(work, len(image) * len(masks), after))
    return scores.reshape(len(image), len(masks), -1).mT


def target_score(
    model: nn.Module, image: Tensor, target: Target, kind: ScoreKind, batches: Batches
) -> Callable[[object, Tensor], Tensor]:
    """Return the ``score`` of :func:`masked_scores` that belongs to a target.

    The model runs once on the images as they are, to find their classes.

    Args:
        model: as in :func:`masked_scores`, as for ``image`` and ``batches``.
        image: (N, C, H, W).
        target: a callable is applied to the model's output for each batch of masked images.
        kind: of score of a class.
        batches: how many images go through the model at once.

    Raises:
        InputError: a target is no class of the model, or there is not one for each image.
        ModelError: the model does not return class scores.
    """
    if callable(target) and not isinstance(target, Tensor):
        return lambda output, owner: class_scores(output, target, len(owner))[:, None]

    classes = target_classes(clean_logits(model, image, batches), target)

    def score(output: object, owner: Tensor) -> Tensor:
        return all_class_scores(output, kind, len(owner)).gather(1, classes[owner][:, None])

    return score


def clean_logits(model: nn.Module, image: Tensor, batches: Batches) -> Tensor:
    """Return the logits (N, classes) of the images as they are.

    Args:
        model: in eval mode.
        image: (N, C, H, W).
        batches: how many images go through the model at once.

    Raises:
        ModelError: the model does not return one row of class scores for each image.
    """

    def logits(batch: slice) -> Tensor:
        # A clone, because the model may write into its input.
        return class_logits(model(image[batch].clone()), batch.stop - batch.start)

    return torch.cat(batches.run(logits, len(image)))


def _masked(image: Tensor, masks: Tensor, batch: slice) -> Tensor:
    """Return a slice of the list of all images under all masks, image by image."""
    masked = image.new_empty(batch.stop - batch.start, *image.shape[1:])
    start = batch.start
    while start < batch.stop:
        owner, first = divmod(start, len(masks))
        stop = min(batch.stop, (owner + 1) * len(masks))
        some = masks[first : first + stop - start]
        torch.mul(image[owner], some, out=masked[start - batch.start : stop - batch.start])
        start = stop
    return masked
