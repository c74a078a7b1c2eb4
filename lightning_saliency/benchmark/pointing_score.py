"""The score that is explained in the pointing game: one class, wherever in the picture it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_saliency.errors import InputError

__all__ = ["PointingScore"]


@dataclass(frozen=True)
class PointingScore:
    """A target for attribution methods: each image's score of its class, over all places.

    A fully convolutional model gives a score for each place. Their soft maximum is explained, the
    logarithm of the sum of their exponentials: its derivative with respect to the scores is their
    softmax over the places. So the signal that is sent back sums to 1 and starts where the class is
    found, as in Zhang et al. (Top-down neural attention by excitation backprop, ECCV 2016,
    arXiv:1608.00507). With one place it is the class's logit.

    Args:
        classes: one for each image of the batch.

    Example:
        >>> import torch
        >>> scores = torch.zeros(1, 2, 1, 3, requires_grad=True)
        >>> score = PointingScore([1])(scores + torch.tensor([0.0, 0.0, 9.0]))
        >>> torch.autograd.grad(score.sum(), scores)[0][0, 1].round(decimals=3)
        tensor([[0., 0., 1.]])
    """

    classes: Sequence[int]

    def __call__(self, scores: Tensor) -> Tensor:
        """Return one score for each image.

        Args:
            scores: (N, classes) or (N, classes, h, w), what the model returned.

        Returns:
            (N,).

        Raises:
            InputError: the model returned something else, or has too few classes.
        """
        if not isinstance(scores, Tensor) or scores.dim() not in (2, 4):
            came = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(
                "Expected the model to return scores (N, classes) or (N, classes, h, w) for the "
                f"pointing game, got {came}."
            )
        if len(scores) != len(self.classes) or max(self.classes) >= scores.shape[1]:
            raise InputError(
                f"Expected scores of {len(self.classes)} images for the classes "
                f"{list(self.classes)}, got a tensor of shape {tuple(scores.shape)}."
            )
        own = scores[list(range(len(scores))), list(self.classes)]
        return own.flatten(1).logsumexp(1) if own.dim() == 3 else own
