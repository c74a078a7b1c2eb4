"""Extremal perturbation area by area: how much of the score each area keeps."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_saliency.attribution.mask_search.result import AreaMasks, area_names
from lightning_saliency.attribution.method import AttributionMethod

__all__ = ["AreaMasks", "area_names", "area_numbers", "maps_and_areas"]


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
    """
    found = method.explain(model, image, target)
    return found.saliency, found.extras if isinstance(found.extras, AreaMasks) else None


def area_numbers(found: AreaMasks) -> dict[str, float]:
    """Return the means over the samples, NaN if nothing can be said of any.

    Args:
        found: of all samples.
    """
    return found.numbers()
