"""What extremal perturbation finds, and how well the masks do."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_saliency.attribution.mask_search.objective import PictureRewards
from lightning_saliency.attribution.mask_search.problem import MaskProblem

__all__ = ["ExtremalMasks", "evaluate_masks"]

# A mask does the job if its reward covers this much of the way from masks that are off everywhere
# to masks that are on everywhere.
_SUFFICIENT = 0.9


@dataclass(frozen=True)
class ExtremalMasks:
    """What was found for N images and A areas.

    Attributes:
        masks: (N, A, H, W), in [0, 1], 1 = in the area.
        rewards: (N, A), of the masks; larger is better.
        area_error: (N, A), mean of the mask minus its area, a fraction of the image.
        clean_reward: (N,), of a mask that is on everywhere: the clean image, for ``"preserve"``.
        perturbed_reward: (N,), of a mask that is off everywhere: the fully perturbed image, for
            ``"preserve"``.
        probability: (N, A), softmax probability of the target for the pictures, with the area
            kept (removed, for ``"delete"``); NaN where the target is a callable.
        clean_probability: (N,), that of the images.
        sufficient_area: (N,), the paper's a*: the smallest area whose reward reaches 0.9 of the
            way from ``perturbed_reward`` to ``clean_reward``; NaN if none does.
        history: (N, A, 2, iterations), on the CPU: the rewards, and minus the weighted area terms,
            which are 0 by default.
    """

    masks: Tensor
    rewards: Tensor
    area_error: Tensor
    clean_reward: Tensor
    perturbed_reward: Tensor
    probability: Tensor
    clean_probability: Tensor
    sufficient_area: Tensor
    history: Tensor


def evaluate_masks(
    problem: MaskProblem, rewards: PictureRewards, masks: Tensor, history: Tensor
) -> ExtremalMasks:
    """Return the masks with their rewards and probabilities.

    Args:
        problem: that the masks were searched for.
        rewards: of the pictures.
        masks: (N, A, H, W).
        history: (N, A, 2, iterations).
    """
    # A mask that is on everywhere, and one that is off, beside those that were found.
    ends = [torch.ones_like(masks[:, :1]), torch.zeros_like(masks[:, :1])]
    pictures = problem.pictures(torch.cat([masks, *ends], 1))
    found, probability = (
        value.reshape(len(masks), -1).to(masks.dtype) for value in rewards.evaluate(pictures)
    )
    on, off = found[:, -2], found[:, -1]
    wanted = on - (1 - _SUFFICIENT) * (on - off).abs()
    areas = masks.new_tensor(problem.areas)
    enough = torch.where(found[:, :-2] >= wanted[:, None], areas, math.inf).amin(1)
    return ExtremalMasks(
        masks=masks,
        rewards=found[:, :-2],
        area_error=masks.mean((2, 3)) - areas,
        clean_reward=on,
        perturbed_reward=off,
        probability=probability[:, :-2],
        # The clean image is what a mask that is off everywhere deletes.
        clean_probability=probability[:, -1 if problem.variant == "delete" else -2],
        sufficient_area=enough.where(enough.isfinite(), math.nan),
        history=history.cpu(),
    )
