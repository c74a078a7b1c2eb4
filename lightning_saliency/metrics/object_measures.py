"""How a map lies on an object, in the numbers that callbacks log."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_saliency.image.blur import gaussian_blur
from lightning_saliency.image.saliency_map import degenerate
from lightning_saliency.metrics.localization import energy_inside, region_mass, top10_region_iou
from lightning_saliency.metrics.map_similarity import Measure
from lightning_saliency.metrics.pointing_game import pointing_hit

# The pointing game allows 15 pixels, and is played on images of about this shorter side.
_TOLERANCE = 15 / 224


class ObjectMeasure(Measure, ABC):
    """How much of a map, or whether its largest value, lies on the object.

    How a map has to be prepared depends on its method, so each measure takes two flags:
    ``has_offset``, whether the map is large everywhere, so that its minimum is subtracted first;
    and ``flat_top_blur``, for maps that are flat where they are largest, the sigma of a Gaussian
    blur before the largest value is looked for, as a share of the image's shorter side.

    Attributes:
        meaning: what it sees, in a few words.
    """

    best = 1.0
    meaning: ClassVar[str]

    @abstractmethod
    def __call__(
        self, maps: Tensor, regions: Tensor, *, has_offset: bool = False, flat_top_blur: float = 0.0
    ) -> Tensor:
        """Measure each map.

        Args:
            maps: (N, 1, H, W), floating point, at the size of the images.
            regions: (N, 1, H, W) or (1, 1, H, W), bool, on the same device: the object.
            has_offset: see the class.
            flat_top_blur: see the class.

        Returns:
            (N,), float32; NaN where there is no object, and, but for pointing, for a degenerate
            map.

        Raises:
            InputError: these are no maps and regions, or they do not fit together.
        """

    def column(self) -> str:
        """Return the heading of the measure in a table of samples."""
        return f"{self.name} on object"


class EnergyOnObject(ObjectMeasure):
    """The share of the positive values that lies on the object, in [0, 1]."""

    name = "energy"
    meaning = "share of the positive values on the object"

    @override
    def __call__(
        self, maps: Tensor, regions: Tensor, *, has_offset: bool = False, flat_top_blur: float = 0.0
    ) -> Tensor:
        return energy_inside(maps, regions, subtract_minimum=has_offset)


class PointingOnObject(ObjectMeasure):
    """1 where the largest value is on the object or near it, else 0; a degenerate map misses.

    Near is less than 15 pixels at a shorter side of 224.
    """

    name = "pointing"
    meaning = "whether the largest value is on the object"

    @override
    def __call__(
        self, maps: Tensor, regions: Tensor, *, has_offset: bool = False, flat_top_blur: float = 0.0
    ) -> Tensor:
        shorter = min(maps.shape[2:])
        # A degenerate map stays one, however it is blurred.
        missing = degenerate(maps)
        if flat_top_blur:
            maps = gaussian_blur(maps, flat_top_blur * shorter)
        hit = pointing_hit(maps, regions, tolerance=_TOLERANCE * shorter) & ~missing
        return hit.float().where(_exists(regions), torch.nan)


class Top10OnObject(ObjectMeasure):
    """The overlap (IoU) of the tenth with the largest values and the object, in [0, 1]."""

    name = "top10_iou"
    meaning = "overlap of the strongest tenth of the pixels and the object"

    @override
    def __call__(
        self, maps: Tensor, regions: Tensor, *, has_offset: bool = False, flat_top_blur: float = 0.0
    ) -> Tensor:
        return top10_region_iou(maps, regions)


OBJECT_MEASURES: Mapping[str, ObjectMeasure] = MappingProxyType(
    {each.name: each for each in (EnergyOnObject(), PointingOnObject(), Top10OnObject())}
)
"""The measures of a map and an object, by name."""


def region_share(maps: Tensor, regions: Tensor, has_offset: bool = False) -> Tensor:
    """Return the share of each map's magnitude that lies in a region.

    Args:
        maps: (N, 1, H, W), floating point.
        regions: (N, 1, H, W) or (1, 1, H, W), bool, on the same device.
        has_offset: whether the maps are large everywhere, so that their minimum is subtracted.

    Returns:
        (N,), in [0, 1]; NaN for a degenerate map and for a region without a pixel.

    Raises:
        InputError: these are no maps and regions, or they do not fit together.
    """
    share = region_mass(maps, regions, subtract_minimum=has_offset)
    return share.where(_exists(regions), torch.nan)


def _exists(regions: Tensor) -> Tensor:
    return regions.flatten(1).any(1)
