"""A link function: scores in units in which the parts of an image add up, and back."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.network.score import ScoreKind

# Beyond this, float32 does not tell a probability from 0 or 1.
_FARTHEST = 16.0

# Newton's method needs a few steps to a level, none of which is longer than this.
_STEPS = 6
_LONGEST_STEP = 4.0


@dataclass(frozen=True)
class LinkFunction:
    """From scores to real numbers, and back.

    The effects of parts of an image on the logits of a network roughly add up; those on a
    probability saturate. So probabilities and their logarithms become log-odds; a logit, and what
    a callable returns, stay what they are.

    Args:
        kind: of the scores; None where nothing is known of them.
    """

    kind: ScoreKind | None

    def transform(self, scores: Tensor) -> Tensor:
        """Return the scores as real numbers.

        Args:
            scores: (..., R), of the link's kind.

        Returns:
            (..., R), from -16 to 16 for probabilities.
        """
        if self.kind in ("probability", "sigmoid"):
            return torch.logit(scores.clamp(0, 1)).clamp(-_FARTHEST, _FARTHEST)
        if self.kind == "log_probability":
            rest = torch.log(-torch.expm1(scores.clamp(max=0)))
            return (scores - rest).clamp(-_FARTHEST, _FARTHEST)
        return scores

    def expected_score(self, values: Tensor, variance: Tensor) -> Tensor:
        """Return the expected scores for values with an error.

        Args:
            values: (..., R), from :meth:`transform`.
            variance: (R,), of their errors.

        Returns:
            (..., R), of the link's kind.
        """
        if self.kind in ("probability", "sigmoid"):
            # MacKay's approximation to the mean of a sigmoid over a normal distribution.
            return (values / torch.sqrt(1 + math.pi / 8 * variance)).sigmoid()
        if self.kind == "log_probability":
            return F.logsigmoid(values)
        return values

    @property
    def is_linear(self) -> bool:
        """Whether the scores are what is transformed to, so that levels add up."""
        return self.kind not in ("probability", "sigmoid", "log_probability")

    def level(self, values: Tensor, variance: Tensor, mean: Tensor) -> Tensor:
        """Return what to add to values so that their expected scores have a mean.

        Args:
            values: (..., R), from :meth:`transform`.
            variance: (R,), of their errors.
            mean: (R,), of the expected scores.

        Returns:
            (R,), from -16 to 16.
        """
        level = torch.zeros_like(mean)
        tiny = torch.finfo(mean.dtype).eps
        for _ in range(_STEPS):
            scores = self.expected_score(values + level, variance).flatten(0, -2)
            current = scores.mean(0)
            if self.kind == "log_probability":
                step = (mean - current) / (-torch.expm1(scores)).mean(0).clamp(min=tiny)
            else:
                # In log-odds, which are almost linear in the level.
                slope = (scores * (1 - scores)).mean(0) / torch.sqrt(1 + math.pi / 8 * variance)
                odds = torch.logit(mean, tiny) - torch.logit(current, tiny)
                step = odds * current * (1 - current) / slope.clamp(min=tiny)
            level = level + step.clamp(-_LONGEST_STEP, _LONGEST_STEP)
        return level.nan_to_num().clamp(-_FARTHEST, _FARTHEST)
