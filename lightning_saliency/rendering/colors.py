"""Colors: look-up tables for values, and the color scale of a run, which says what a color means.

``"inferno"`` is for maps that are >= 0: black to pale yellow, perceptually uniform (equal steps in
the value look like equal steps in the picture) and readable without color vision. ``"RdBu_r"`` is
for maps with a sign: blue below zero, an exactly neutral light gray at zero, red above. Neither
contains pure green, so :data:`NON_FINITE` cannot be mistaken for a value.

The maps of one run differ in size by orders of magnitude: gradients of a logit were measured to
grow ninefold in fourteen epochs of a small network and 60-fold in longer runs. That leaves three
ways to choose colors, of which two mislead:

* Each map normalized to its own minimum and maximum: noise that is a millionth as strong looks as
  certain as a real finding, and a constant map seems to show something.
* One value for full color, fixed at the start: the first pictures are fine, but after a few epochs
  most of every picture is saturated and unreadable.
* One *share* for full color: a pixel's color says how many times more of its map's mass it holds
  than it would if the mass were spread evenly. This is the default.

With shares a color means the same in every picture of a run, of every method and of every other
run: half of full color is five times the average pixel. A diffuse map is dark everywhere and gets
brighter spots as the network concentrates, so the picture also shows how concentrated the map is.
At most a tenth of a map can be at full color, whatever its values are. Shares do not show how
strong the map is as a whole; this is therefore written into each panel, with the ratio to the first
maps of the run, and drawn as a bar under each frame of a filmstrip. A map that has almost vanished
(below a hundredth of the strongest first one) fades to black in proportion, and a map that shows
nothing is hatched (see :mod:`lightning_saliency.rendering.heatmap`).

The unit ``"value"`` is for methods whose values are meaningful in themselves, such as masks in
[0, 1]: the color is the value itself, full color is the same value in every picture of the run,
and the fraction of pixels beyond it is written into the panel.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.image.saliency_map import degenerate

SEQUENTIAL = "inferno"
"""The colormap of maps without a sign."""

DIVERGING = "RdBu_r"
"""The colormap of maps with a sign; 0.5 is its neutral middle."""

NON_FINITE = (0.0, 1.0, 0.0)
"""The color (red, green, blue) of pixels that are NaN or infinite."""

# Odd, so that the middle of a diverging map is an entry and not the border between two.
_ENTRIES = 257


def apply_colormap(values: Tensor, name: str = SEQUENTIAL) -> Tensor:
    """Color each pixel by its value.

    Args:
        values: (N, 1, H, W), floating point; below 0 counts as 0 and above 1 as 1.
        name: a colormap of matplotlib, for instance ``"inferno"`` or ``"RdBu_r"``.

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
            f"'{DIVERGING}', got '{name}'."
        )
    colors = colormaps[name].resampled(_ENTRIES)(np.linspace(0, 1, _ENTRIES))[:, :3]
    return torch.tensor([*colors.tolist(), NON_FINITE], dtype=torch.float32)


ColorUnit: TypeAlias = Literal["share", "value"]
"""What a color stands for: a pixel's share of its map, or the value itself."""

FAINT = 0.01
"""Maps weaker than this fraction of the strongest first one are faint, and fade."""

# A few outliers must not decide what full color is.
_FULL_QUANTILE = 0.995


@dataclass(frozen=True)
class ColorScale:
    """What full color stands for; determined once, then used for every map of a method in a run.

    Three plain values: saved with ``dataclasses.asdict``, they give a resumed run the same colors.

    Args:
        unit: ``"share"``, full color is ``full`` times the map's mean absolute value;
            ``"value"``, full color is the value ``full``.
        full: what full color stands for; > 0. Ten even shares by default: a mask that keeps
            a tenth of the image is at full color.
        reference: strength of the strongest of the run's first maps (see :func:`strength`), or 0
            if there is none to compare with.

    Raises:
        InputError: one of them is out of its range.
    """

    unit: ColorUnit = "share"
    full: float = 10.0
    reference: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.unit not in get_args(ColorUnit):
            raise InputError(f"Expected unit 'share' or 'value', got '{self.unit}'.")
        if not 0 < self.full < math.inf:
            raise InputError(f"Expected full to be positive and finite, got {self.full}.")
        if not 0 <= self.reference < math.inf:
            raise InputError(f"Expected reference to be finite and >= 0, got {self.reference}.")

    def position(self, saliency: Tensor) -> Tensor:
        """Return where each pixel lies between no color and full color.

        Args:
            saliency: (N, 1, H, W), floating point.

        Returns:
            (N, 1, H, W), float64: 0 is no color, 1 full color, more than 1 is beyond the scale;
            negative for negative values; NaN for pixels that are not finite.
        """
        value = saliency.double()
        value = torch.where(value.isfinite(), value, torch.nan)
        if self.unit == "value":
            return value / self.full
        mean = strength(saliency)
        if self.reference > 0:
            # A mean below the faint bound is replaced by the bound, so the share shrinks with it.
            mean = mean.clamp(min=FAINT * self.reference)
        mean = torch.where(mean > 0, mean, 1.0)
        return value / mean.view(-1, 1, 1, 1) / self.full

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
