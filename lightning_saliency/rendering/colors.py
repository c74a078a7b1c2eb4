"""Colors: look-up tables for values, and the color scale, which says what a color means.

Maps differ in size by orders of magnitude, from method to method and over a run. So a color does
not say how large a value is, but how many times the mean of its map: the *share*. The scale is
logarithmic and fixed, from the mean (no color: the gray image) over 2, 4 and 8 times to 16 times
the mean (full color). It means the same for every method, network, epoch and run, nothing is
calibrated or kept, and it can be read for coarse maps too: a map of 3 x 3 cells has no more than 9
times its mean anywhere.

Other ways were tried and mislead, or show nothing. Stretched to its own minimum and maximum, or by
ranks, noise looks as certain as a finding. On a linear scale most maps are dim. A scale that is
settled with the first maps means something else in every run.

Maps with a sign have the same warm colors for positive values and blue ones for negative values.
How strong a map is as a whole does not show; a map that has almost vanished (below a hundredth of
the strongest first one) fades in proportion, and a map that shows nothing is hatched (see
:mod:`lightning_saliency.rendering.heatmap`).

The unit ``"value"`` is for single pictures of methods whose values are meaningful in themselves,
such as masks in [0, 1]: there the color is the value itself.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.image.saliency_map import degenerate

SEQUENTIAL = "inferno"
"""The colormap of maps without a sign."""

NEGATIVE = "Blues_r"
"""The colormap of negative values."""

NON_FINITE = (0.0, 1.0, 0.0)
"""The color (red, green, blue) of pixels that are NaN or infinite."""

_ENTRIES = 257
# The parts of the colormaps that differ from gray images, and from each other.
_WARM, _COLD = (0.32, 1.0), (0.05, 0.8)


def apply_colormap(values: Tensor, name: str = SEQUENTIAL) -> Tensor:
    """Color each pixel by its value.

    Args:
        values: (N, 1, H, W), floating point; below 0 counts as 0 and above 1 as 1.
        name: a colormap of matplotlib, for instance ``"inferno"`` or ``"Blues_r"``.

    Returns:
        (N, 3, H, W), float32 in [0, 1], on the device of ``values``. Pixels that are NaN or
        infinite have the color :data:`NON_FINITE`.

    Raises:
        InputError: ``values`` has another shape, or there is no such colormap.
    """
    if values.dim() != 4 or values.shape[1] != 1:
        raise InputError(f"Expected values of shape (N, 1, H, W), got {tuple(values.shape)}.")
    finite = values.isfinite()
    position = torch.where(finite, values, 0.0).clamp(0, 1)
    index = (position.float() * (_ENTRIES - 1)).round().long()
    index = torch.where(finite, index, _ENTRIES)
    return _table(name).to(values.device)[index[:, 0]].permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _table(name: str) -> Tensor:
    """Return the colors (258, 3): the colormap from 0 to 1, then that of non-finite pixels."""
    # Imported here because it takes a moment, and only a process that draws needs it.
    from matplotlib import colormaps

    if name not in colormaps:
        raise InputError(
            f"Expected the name of a colormap of matplotlib, such as '{SEQUENTIAL}' or "
            f"'{NEGATIVE}', got '{name}'."
        )
    colors = colormaps[name].resampled(_ENTRIES)(np.linspace(0, 1, _ENTRIES))[:, :3]
    return torch.tensor([*colors.tolist(), NON_FINITE], dtype=torch.float32)


ColorUnit: TypeAlias = Literal["share", "value"]
"""What a color stands for: a pixel's share of its map, or the value itself."""


def ramp_colors(position: Tensor) -> Tensor:
    """Color each pixel by its place on the scale: warm above zero, blue below.

    Args:
        position: (N, 1, H, W), from -1 to 1, see :meth:`ColorScale.position`.

    Returns:
        (N, 3, H, W), float32 in [0, 1], without what lies beneath a color that is not opaque.
    """
    place = position.abs()
    warm = apply_colormap(_WARM[0] + (_WARM[1] - _WARM[0]) * place, SEQUENTIAL)
    if not bool((position < 0).any()):
        return warm
    cold = apply_colormap(_COLD[0] + (_COLD[1] - _COLD[0]) * place, NEGATIVE)
    return torch.where(position < 0, cold, warm)


def ramp_opacity(position: Tensor) -> Tensor:
    """Return how opaque the color of each pixel is, in [0, 0.85]; 0 where there is none.

    Args:
        position: of any shape, from -1 to 1; NaN is opaque.
    """
    return (2.2 * position.abs()).clamp(max=_MOST_OPAQUE).nan_to_num(_MOST_OPAQUE).float()


# Full color lets a little of the image through.
_MOST_OPAQUE = 0.85

FAINT = 0.01
"""Maps weaker than this fraction of the strongest first one are faint, and fade."""

# A few outliers must not decide what full color is.
_FULL_QUANTILE = 0.995
# Makes the middle of the logarithmic scale brighter.
_EXPONENT = 0.75
# The side of the maps whose shares are shown: drift compares them at this size.
_SIDE = 64
TICKS = (1, 2, 4, 16)
"""Shares that are written beside the color bar."""


@dataclass(frozen=True)
class ColorScale:
    """What full color stands for.

    Three plain values, for ``dataclasses.asdict``.

    Args:
        unit: ``"share"``, colors stand for 1 to ``full`` times the map's mean absolute value, on a
            logarithmic scale; ``"value"``, full color is the value ``full``.
        full: what full color stands for; > 0, of shares > 1.
        reference: strength of the strongest of the run's first maps (see :func:`strength`), or 0
            if there is none to compare with.

    Raises:
        InputError: one of them is out of its range.
    """

    unit: ColorUnit = "share"
    full: float = 16.0
    reference: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.unit not in get_args(ColorUnit):
            raise InputError(f"Expected unit 'share' or 'value', got '{self.unit}'.")
        least = 1 if self.unit == "share" else 0
        if not least < self.full < math.inf:
            raise InputError(f"Expected full to be finite and above {least}, got {self.full}.")
        if not 0 <= self.reference < math.inf:
            raise InputError(f"Expected reference to be finite and >= 0, got {self.reference}.")

    def position(self, saliency: Tensor) -> Tensor:
        """Return where each pixel lies between no color and full color.

        The shares are those of the map reduced to 64 pixels on its longer side.

        Args:
            saliency: (N, 1, H, W), floating point.

        Returns:
            (N, 1, H, W), float64: 0 is no color, 1 full color or beyond; negative for negative
            values; NaN for pixels that are not finite.
        """
        maps = torch.where(saliency.isfinite(), saliency.double(), torch.nan)
        if self.unit == "value":
            return (maps / self.full).clamp(-1, 1)
        size = maps.shape[2:]
        maps = reduced(maps)
        # Divided first, so that no sum of large values is infinite.
        mean = strength(maps)
        if self.reference > 0:
            # A mean below the faint bound is replaced by the bound, so the share shrinks with it.
            mean = mean.clamp(min=FAINT * self.reference)
        mean = torch.where(mean > 0, mean, 1.0)
        place = self.place(maps / mean.view(-1, 1, 1, 1))
        if place.shape[2:] == size:
            return place
        return F.interpolate(place, size=size, mode="bilinear", align_corners=False)

    def place(self, share: Tensor) -> Tensor:
        """Return where shares lie on the logarithmic scale, of the same shape.

        Args:
            share: values divided by their map's mean absolute value.
        """
        height = share.abs().clamp(min=1).log2() / math.log2(self.full)
        return share.sign() * height.clamp(max=1) ** _EXPONENT

    def label(self) -> str:
        """Return what full color stands for, as it is written next to the color bar."""
        return f"{self.full:.3g}x mean" if self.unit == "share" else f"{self.full:.3g}"


def color_scale(saliency: Tensor, unit: ColorUnit = "share") -> ColorScale | None:
    """Determine the color scale of a run from its first maps.

    The reference is the strength of the strongest map. For shares, full color is the fixed
    default; for values, the one that 0.5 % of the pixels of all these maps exceed.

    Args:
        saliency: (N, 1, H, W), all samples of the first explanation.
        unit: ``"share"`` or ``"value"``.

    Returns:
        The scale; None if every map is degenerate (constant, zero or not finite). Draw those with
        ``ColorScale()`` and try again with the next maps.

    Raises:
        InputError: ``unit`` is neither of them.
    """
    scale = ColorScale(unit)
    maps = saliency.detach().double().cpu()
    maps = maps[~degenerate(maps)]
    if len(maps) == 0:
        return None
    reference = float(strength(maps).max())
    if unit == "share":
        return replace(scale, reference=reference)
    magnitude = maps.abs().flatten()
    # Not torch.quantile, which takes no more than 16 million values.
    rank = math.ceil(_FULL_QUANTILE * len(magnitude))
    full = float(magnitude.kthvalue(rank).values)
    return ColorScale(unit, full if full > 0 else float(magnitude.max()), reference)


def strength(saliency: Tensor) -> Tensor:
    """Return how strong each map is as a whole: the mean absolute value of its finite pixels.

    Args:
        saliency: (N, 1, H, W), floating point.

    Returns:
        (N,), float64, >= 0; 0 for a map without finite pixels.
    """
    finite = saliency.isfinite()
    magnitude = torch.where(finite, saliency.double().abs(), 0.0).flatten(1)
    peak = magnitude.amax(1)
    # Divided by the peak first: the sum of values near the largest float is infinite.
    share = magnitude / torch.where(peak > 0, peak, 1.0)[:, None]
    return share.sum(1) / finite.flatten(1).sum(1).clamp(min=1) * peak


def reduced(maps: Tensor) -> Tensor:
    """Return maps with at most 64 pixels on the longer side, each the mean of its area.

    Args:
        maps: (N, 1, H, W), floating point.

    Returns:
        (N, 1, h, w), of the same type.
    """
    longest = max(maps.shape[2:])
    if longest <= _SIDE:
        return maps
    size = [max(1, round(side * _SIDE / longest)) for side in maps.shape[2:]]
    return F.interpolate(maps, size=size, mode="area")
