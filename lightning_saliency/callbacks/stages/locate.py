"""Where the maps look: how much of them lies on an object, and on named regions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.callbacks.samples.regions import OBJECT
from lightning_saliency.image.blur import gaussian_blur
from lightning_saliency.image.resize import resize
from lightning_saliency.metrics.canonical import degenerate
from lightning_saliency.metrics.localization import (
    energy_inside,
    region_mass,
    top10_region_iou,
)
from lightning_saliency.metrics.pointing_game import pointing_hit

__all__ = ["locate", "location_names"]

# The pointing game allows 15 pixels, and is played on images of about this shorter side.
_TOLERANCE = 15 / 224
# Masks are flat on top; before their largest value is looked for, the authors of extremal
# perturbation blur them with a Gaussian of this share of the shorter side.
_FLAT_TOP_BLUR = 0.09


def location_names(regions: Iterable[str]) -> list[str]:
    """Return the names of the numbers that :func:`locate` gives for regions of these names.

    Args:
        regions: their names.
    """
    of_object = [f"object/{what}" for what in ("energy", "pointing", "top10_iou")]
    return [
        name
        for region in regions
        for name in (of_object if region == OBJECT else [f"region/{region}"])
    ]


def locate(
    saliency: Tensor, regions: Mapping[str, Tensor], method: AttributionMethod
) -> dict[str, Tensor]:
    """Measure each map on the regions.

    Maps of another size than the images are resized to it. From RISE's maps with a published
    preset, which are large everywhere, the minimum is subtracted first; the masks of extremal
    perturbation are blurred before their largest value is looked for.

    Args:
        saliency: (N, 1, h, w).
        regions: by name, bool, (N, 1, H, W) or (1, 1, H, W); that of the name ``"object"`` is the
            ground truth.
        method: that the maps are from.

    Returns:
        Each (N,), float32. For the object ``object/energy``, the share of the positive values on
        it, ``object/pointing``, 1 where the largest value is on it or nearer than 15 pixels at a
        shorter side of 224, else 0, and ``object/top10_iou``; for each other region
        ``region/<name>``, the share of the map's magnitude in it. NaN for degenerate maps (but
        they point nowhere: 0) and where a region has no pixel.
    """
    values: dict[str, Tensor] = {}
    if not regions:
        return values
    size = next(iter(regions.values())).shape[2:]
    maps = resize(saliency, (size[0], size[1]))
    offset = method.has_offset
    for name, region in regions.items():
        region = region.to(maps.device)
        if name != OBJECT:
            share = region_mass(maps, region, subtract_minimum=offset)
            values[f"region/{name}"] = share.where(_exists(region), torch.nan)
            continue
        values["object/energy"] = energy_inside(maps, region, subtract_minimum=offset)
        values["object/pointing"] = _pointing(maps, region, method)
        values["object/top10_iou"] = top10_region_iou(maps, region)
    return values


def _pointing(maps: Tensor, region: Tensor, method: AttributionMethod) -> Tensor:
    shorter = min(maps.shape[2:])
    # A degenerate map stays one, however it is blurred.
    missing = degenerate(maps)
    if method.flat_top_blur:
        maps = gaussian_blur(maps, method.flat_top_blur * shorter)
    hit = pointing_hit(maps, region, tolerance=_TOLERANCE * shorter) & ~missing
    return hit.float().where(_exists(region), torch.nan)


def _exists(region: Tensor) -> Tensor:
    return region.flatten(1).any(1)
