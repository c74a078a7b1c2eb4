"""What a search for masks is given: the images, the areas, and which pictures a mask makes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_saliency.attribution.mask_search.presets import SearchConfig
from lightning_saliency.attribution.mask_search.rewards import Variant
from lightning_saliency.image.perturbation import blend
from lightning_saliency.image.smooth_mask import SmoothMask

__all__ = ["MaskProblem"]


@dataclass(frozen=True)
class MaskProblem:
    """Masks of all areas of all images, and the pictures by which they are rewarded.

    Attributes:
        config: how the search is done.
        areas: of the masks of each image, fractions in (0, 1].
        smooth_mask: makes masks out of grids.
        levels: (N, L, C, H, W), the images at each degree of perturbation.
        variant: whether masks keep the score, delete it, or both.
    """

    config: SearchConfig
    areas: tuple[float, ...]
    smooth_mask: SmoothMask
    levels: Tensor
    variant: Variant

    def pictures(self, masks: Tensor) -> list[Tensor]:
        """Return the pictures that are rewarded, (N * A, C, H, W): one tensor, two for ``"dual"``.

        Args:
            masks: (N, A, H, W).
        """
        kept = {"preserve": [masks], "delete": [1 - masks], "dual": [masks, 1 - masks]}
        return [
            blend(self.levels, mask, slope_at_one=self.config.slope_at_one).flatten(0, 1)
            for mask in kept[self.variant]
        ]
