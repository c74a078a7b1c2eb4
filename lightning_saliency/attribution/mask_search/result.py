"""What extremal perturbation finds, and how well the masks do."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_saliency.attribution.extras import Extras, MaskPanel
from lightning_saliency.attribution.mask_search.objective import MaskProblem, PictureRewards
from lightning_saliency.attribution.mask_search.rewards import Variant

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


@dataclass(frozen=True)
class AreaMasks(Extras):
    """The masks of N images and A areas, and how much of the score each keeps.

    Attributes:
        areas: A fractions of the image, rising.
        variant: in ``"delete"`` the masks mark what is removed.
        masks: (N, A, H, W), float32, in [0, 1].
        reward: (N, A), where each mask's reward lies between that of a mask that is off everywhere,
            0, and on everywhere, 1; for ``"preserve"`` these are the perturbed and the clean
            image. NaN where the latter has no larger reward than the former.
        probability: (N, A), of the explained class for what is left of the image.
        sufficient_area: (N,), the smallest area, the whole image (1) among them, whose reward is
            at least 0.9; NaN like ``reward``.
    """

    areas: tuple[float, ...]
    variant: Variant
    masks: Tensor
    reward: Tensor
    probability: Tensor
    sufficient_area: Tensor

    @classmethod
    def of(cls, found: ExtremalMasks, areas: tuple[float, ...], variant: Variant) -> Self:
        """Return what was found with rewards scaled to [0, 1], float32, on the CPU.

        Args:
            found: for N images and A areas.
            areas: A fractions of the image.
            variant: by which it was found.
        """
        least, most = found.perturbed_reward[:, None], found.clean_reward[:, None]
        reward = ((found.rewards - least) / (most - least)).where(most > least, math.nan)
        sufficient = found.sufficient_area.nan_to_num(1.0).where((most > least)[:, 0], math.nan)
        masks = cls(areas, variant, found.masks, reward, found.probability, sufficient)
        return masks.each(lambda tensor: tensor.float().cpu())

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the same with all tensors changed alike; see :meth:`Extras.each`."""
        return replace(
            self,
            masks=change(self.masks),
            reward=change(self.reward),
            probability=change(self.probability),
            sufficient_area=change(self.sufficient_area),
        )

    def numbers(self) -> dict[str, float]:
        """Return the means over the images, NaN where no image has a value.

        Returns:
            ``area/reward_<area>``; ``area/sufficient``, the paper's a*; and ``area/under_curve``,
            the area under the reward as a function of the area: straight lines from 0 at no area
            over the rewards to 1 at the whole image.
        """
        ends = self.reward.new_zeros(len(self.reward), 1)
        curve = torch.cat([ends, self.reward, ends + 1], 1)
        at = curve.new_tensor([0.0, *self.areas, 1.0])
        values = [*self.reward.unbind(1), self.sufficient_area, torch.trapezoid(curve, at, dim=1)]
        means = [float(each.nanmean()) for each in values]
        return dict(zip(area_names(self.areas), means, strict=True))

    def mask_panel(self, index: int) -> MaskPanel:
        """Return the masks of an image; see :meth:`Extras.mask_panel`."""
        scores = self.probability[index].tolist()
        return MaskPanel(self.masks[index], self.areas, scores, self.variant == "delete")


def area_names(areas: Iterable[float]) -> list[str]:
    """Return the names of :meth:`AreaMasks.numbers`.

    Args:
        areas: of the masks.
    """
    return [*(f"area/reward_{area:g}" for area in areas), "area/sufficient", "area/under_curve"]
