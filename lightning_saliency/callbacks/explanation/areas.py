"""Extremal perturbation area by area: how much of the score each area keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.extremal_perturbation import ExtremalPerturbation
from lightning_saliency.attribution.mask_search.rewards import Variant
from lightning_saliency.attribution.method import AttributionMethod

__all__ = ["AreaMasks", "area_names", "area_numbers", "maps_and_areas"]


@dataclass(frozen=True)
class AreaMasks:
    """What extremal perturbation found for N images and A areas; all on the CPU.

    Attributes:
        areas: A fractions of the image, rising.
        variant: the game; in ``"delete"`` the masks mark what is taken away.
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

    def each(self, change: Callable[[Tensor], Tensor]) -> AreaMasks:
        """Return the same with all tensors changed in the same way."""
        return AreaMasks(
            self.areas,
            self.variant,
            change(self.masks),
            change(self.reward),
            change(self.probability),
            change(self.sufficient_area),
        )


def maps_and_areas(
    method: AttributionMethod, model: nn.Module, image: Tensor, target: Any
) -> tuple[Tensor, AreaMasks | None]:
    """Explain once; of extremal perturbation keep what there is beside the map.

    Args:
        method: any.
        model: see :meth:`AttributionMethod.__call__`.
        image: (N, C, H, W).
        target: see :meth:`AttributionMethod.__call__`.

    Returns:
        The maps (N, 1, H, W), and the masks that they are the mean of; None for other methods.

    Raises:
        SaliencyError: the method does not apply.
    """
    if not isinstance(method, ExtremalPerturbation):
        return method(model, image, target), None
    found = method.masks(model, image, target)
    least, most = found.perturbed_reward[:, None], found.clean_reward[:, None]
    reward = ((found.rewards - least) / (most - least)).where(most > least, torch.nan)
    areas = AreaMasks(
        areas=method.areas,
        variant=method.variant,
        masks=found.masks,
        reward=reward,
        probability=found.probability,
        sufficient_area=found.sufficient_area.nan_to_num(1.0).where(
            (most > least)[:, 0], torch.nan
        ),
    )
    return found.masks.mean(1, keepdim=True), areas.each(lambda t: t.float().cpu())


def area_names(areas: Iterable[float]) -> list[str]:
    """Return the names of the numbers that :func:`area_numbers` gives.

    Args:
        areas: of the masks.
    """
    return [*(f"area/reward_{area:g}" for area in areas), "area/sufficient", "area/under_curve"]


def area_numbers(found: AreaMasks) -> dict[str, float]:
    """Return the means over the samples, NaN if nothing can be said of any.

    Args:
        found: of all samples.

    Returns:
        ``area/reward_<area>``; ``area/sufficient``, the paper's a*; and ``area/under_curve``, the
        area under the reward as a function of the area: straight lines from 0 at no area over the
        rewards to 1 at the whole image.
    """
    numbers = {
        f"area/reward_{area:g}": float(found.reward[:, i].nanmean())
        for i, area in enumerate(found.areas)
    }
    numbers["area/sufficient"] = float(found.sufficient_area.nanmean())
    ends = found.reward.new_zeros(len(found.reward), 1)
    curve = torch.cat([ends, found.reward, ends + 1], 1)
    at = curve.new_tensor([0.0, *found.areas, 1.0])
    numbers["area/under_curve"] = float(torch.trapezoid(curve, at, dim=1).nanmean())
    return numbers
