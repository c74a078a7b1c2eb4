"""Where the maps look: how much of them lies on an object, and on named regions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.callbacks.samples.regions import OBJECT
from lightning_saliency.image.resize import resize
from lightning_saliency.metrics.object_measures import OBJECT_MEASURES, region_share

__all__ = ["locate", "location_names"]


def location_names(regions: Iterable[str]) -> list[str]:
    """Return the names of the numbers that :func:`locate` gives for regions of these names."""
    names: list[str] = []
    for region in regions:
        if region == OBJECT:
            names += [f"object/{measure}" for measure in OBJECT_MEASURES]
        else:
            names.append(f"region/{region}")
    return names


def locate(
    saliency: Tensor, regions: Mapping[str, Tensor], method: AttributionMethod
) -> dict[str, Tensor]:
    """Measure each map on the regions.

    Maps of another size than the images are resized to it. What a method's maps need before they
    are measured, the method says: RISE's published presets are large everywhere, so that their
    minimum is subtracted; masks are flat on top, so that they are blurred before their largest
    value is looked for.

    Args:
        saliency: (N, 1, h, w).
        regions: by name, bool, (N, 1, H, W) or (1, 1, H, W); that of the name ``"object"`` is the
            ground truth.
        method: that the maps are from.

    Returns:
        Each (N,), float32: for the object the :data:`~.metrics.object_measures.OBJECT_MEASURES` as
        ``object/<measure>``; for each other region ``region/<name>``, the share of the map's
        magnitude in it. NaN for degenerate maps (but they point nowhere: 0) and where a region has
        no pixel.
    """
    values: dict[str, Tensor] = {}
    if not regions:
        return values
    size = next(iter(regions.values())).shape[2:]
    maps = resize(saliency, (size[0], size[1]))
    for name, region in regions.items():
        region = region.to(maps.device)
        if name == OBJECT:
            for measure in OBJECT_MEASURES.values():
                found = measure(
                    maps, region, has_offset=method.has_offset, flat_top_blur=method.flat_top_blur
                )
                values[f"object/{measure.name}"] = found
        else:
            values[f"region/{name}"] = region_share(maps, region, method.has_offset)
    return values
