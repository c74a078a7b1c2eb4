"""How much of a saliency map lies on a region: an object, or a place that should be irrelevant.

The functions take maps (N, 1, H, W) and regions, bool, (N, 1, H, W) or (1, 1, H, W) for one region
in all images, and return (N,). They have in common:

- A degenerate map (constant, all zero, not finite) gives NaN; so does a region without a pixel,
  except in :func:`region_mass`, where it holds 0.
- For a map that is unrelated to the region, :func:`energy_inside`, :func:`region_mass` and
  :func:`rank_accuracy` are about its :func:`region_area`: interpret them relative to it.
- Each function documents how it treats negative values.

Whether the largest value lies on the region is in
:mod:`~lightning_saliency.metrics.pointing_game`.
"""

import torch
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.image.saliency_map import check_maps, degenerate, to_float64
from lightning_saliency.metrics.map_similarity import top10

# Sums of so many values are made in the values' own precision.
_BLOCK = 512


def energy_inside(maps: Tensor, regions: Tensor, subtract_minimum: bool = False) -> Tensor:
    """Return the share of the positive values that lies in the region; negative ones count as 0.

    Known as the energy-based pointing game (Wang et al. Score-CAM. CVPR workshops 2020,
    arXiv:1910.01279) and as relevance mass accuracy (Arras, Osman, Samek. CLEVR-XAI. Information
    Fusion 2022, arXiv:2003.07258).

    Args:
        maps: (N, 1, H, W), floating point.
        regions: (N, 1, H, W) or (1, 1, H, W), bool.
        subtract_minimum: subtract each map's minimum first. For maps that are large everywhere,
            such as RISE's, whose share would otherwise always be about the region's area.

    Returns:
        (N,), in [0, 1]; NaN for a degenerate map, one without a positive value, an empty region.

    Raises:
        InputError: these are no maps and regions, or they do not fit together.
    """
    values, inside = _pixels(maps, regions, subtract_minimum)
    share = _share(values.clamp_min(0), inside)
    return _result(share, maps, _any(inside))


def region_mass(maps: Tensor, regions: Tensor, subtract_minimum: bool = False) -> Tensor:
    """Return the share of the map's magnitude that lies in the region.

    Evidence against the class counts like evidence for it: both show that the network uses the
    region. For maps without negative values this is :func:`energy_inside`.

    Args:
        maps: (N, 1, H, W), floating point.
        regions: (N, 1, H, W) or (1, 1, H, W), bool.
        subtract_minimum: subtract each map's minimum first; see :func:`energy_inside`.

    Returns:
        (N,), in [0, 1], 0 for an empty region; NaN for a degenerate map.

    Raises:
        InputError: these are no maps and regions, or they do not fit together.
    """
    values, inside = _pixels(maps, regions, subtract_minimum)
    return _result(_share(values.abs(), inside), maps)


def region_area(regions: Tensor) -> Tensor:
    """Return the share of the picture that each region takes.

    Args:
        regions: (N, 1, H, W), bool.

    Returns:
        (N,), float32, in [0, 1].
    """
    return regions.flatten(1).float().mean(1)


def rank_accuracy(maps: Tensor, regions: Tensor) -> Tensor:
    """Return the share of the K largest pixels that lies in the region of K pixels.

    Relevance rank accuracy of Arras, Osman, Samek. CLEVR-XAI. Information Fusion 2022,
    arXiv:2003.07258. The values are ordered with their sign. Where equal pixels compete for the
    last places, the result is the mean over all ways to choose among them.

    Args:
        maps: (N, 1, H, W), floating point.
        regions: (N, 1, H, W) or (1, 1, H, W), bool.

    Returns:
        (N,), in [0, 1]; NaN for a degenerate map or an empty region.

    Raises:
        InputError: these are no maps and regions, or they do not fit together.
    """
    values, inside = _pixels(maps, regions)
    places = _count(inside)
    last = _largest(values, places.clamp_min(1))[:, None]
    largest = values >= last
    found, taken = _count(largest & inside).double(), _count(largest)
    if bool((taken > places).any()):
        # Equal pixels share the remaining places.
        tied = values == last
        spare = (taken - places) / _count(tied).double()
        found = found - _count(tied & inside) * spare
    return _result(found / places, maps, places > 0)


def top10_region_iou(maps: Tensor, regions: Tensor) -> Tensor:
    """Return the overlap (intersection over union) of the tenth of largest pixels and the region.

    The values are ordered with their sign;
    :func:`~lightning_saliency.metrics.map_similarity.top10` says what happens to ties.

    Args:
        maps: (N, 1, H, W), floating point.
        regions: (N, 1, H, W) or (1, 1, H, W), bool.

    Returns:
        (N,), in [0, 1]; NaN for a degenerate map or an empty region.

    Raises:
        InputError: these are no maps and regions, or they do not fit together.
    """
    values, inside = _pixels(maps, regions)
    largest = top10(maps).flatten(1).to(values.device)
    shared = (largest & inside).sum(1).to(values.dtype)
    return _result(shared / (largest | inside).sum(1), maps, _any(inside))


def check_regions(maps: Tensor, regions: object) -> Tensor:
    """Raise unless there is a region for each map; return one for each.

    Args:
        maps: (N, 1, H, W), floating point.
        regions: should be (N, 1, H, W) or (1, 1, H, W), bool, on the maps' device.

    Returns:
        (N, 1, H, W), bool.

    Raises:
        InputError: these are no maps and regions, or they do not fit together.
    """
    check_maps(maps)
    if not isinstance(regions, Tensor) or regions.dtype != torch.bool:
        came = regions.dtype if isinstance(regions, Tensor) else type(regions).__name__
        raise InputError(f"Expected regions as a bool tensor, got {came}. Give regions > 0.5.")
    one_for_all = (1, *maps.shape[1:])
    if regions.shape not in (maps.shape, one_for_all) or regions.device != maps.device:
        raise InputError(
            f"Expected regions of shape {tuple(maps.shape)} or {one_for_all} on {maps.device}, "
            f"like the maps, got {tuple(regions.shape)} on {regions.device}."
        )
    return regions.expand_as(maps)


def _pixels(maps: Tensor, regions: Tensor, subtract_minimum: bool = False) -> tuple[Tensor, Tensor]:
    """Return maps and regions, (N, H * W), on one device that has float64."""
    regions = check_regions(maps, regions)
    on_device = maps.detach().to(torch.promote_types(maps.dtype, torch.float32))
    values = (to_float64(maps) if maps.device.type == "mps" else on_device).flatten(1)
    if subtract_minimum:
        values = values.double() - values.double().amin(1, keepdim=True)
    return values, regions.flatten(1).to(values.device)


def _share(values: Tensor, inside: Tensor) -> Tensor:
    """Return the share that lies inside, NaN where the sum is 0; writes into ``values``."""
    every = _sum(values)
    return _sum(values.mul_(inside)) / every


def _sum(values: Tensor) -> Tensor:
    """Return the sum of each row (N, n) in float64; of values >= 0 good to float32 at least."""
    whole = values.shape[1] // _BLOCK * _BLOCK
    if values.is_cpu and whole:
        # A fifth of the time that all of it takes in float64.
        blocks = values[:, :whole].reshape(len(values), -1, _BLOCK).sum(2)
        rest = values[:, whole:].sum(1, dtype=torch.float64)
        total = blocks.sum(1, dtype=torch.float64) + rest
        if bool(total.isfinite().all()):
            return total
    return values.sum(1, dtype=torch.float64)


def _count(chosen: Tensor) -> Tensor:
    """Return how many of each row (N, n) are True, in half the time of adding up booleans."""
    return chosen.view(torch.int8).sum(1, dtype=torch.int32)


def _any(chosen: Tensor) -> Tensor:
    """Return whether any of each row (N, n) is True, in an eighth of the time of ``any(1)``."""
    return chosen.view(torch.int8).amax(1).bool()


def _largest(values: Tensor, places: Tensor) -> Tensor:
    """Return of each row (N, n) the value in that place, (N,), counted from 1 for the largest."""
    if values.is_cpu:
        # A tenth of the time of sorting.
        least = (values.shape[1] + 1 - places).tolist()
        found = [row.kthvalue(place).values for row, place in zip(values, least, strict=True)]
        return torch.stack(found) if found else values.new_zeros(0)
    ordered = values.sort(1, descending=True).values
    return ordered.gather(1, places[:, None] - 1).squeeze(1)


def _result(share: Tensor, maps: Tensor, defined: Tensor | None = None) -> Tensor:
    """Put NaN where the result is undefined; return to the maps' device and their dtype."""
    valid = ~degenerate(maps).to(share.device)
    if defined is not None:
        valid = valid & defined
    dtype = torch.promote_types(maps.dtype, torch.float32)
    return share.where(valid, torch.nan).to(dtype).to(maps.device)
