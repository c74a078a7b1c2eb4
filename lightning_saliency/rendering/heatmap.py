"""Saliency maps as colored pictures, alone and laid over the images that they explain.

A map that shows nothing is not colored but hatched in gray, and panels and filmstrips print the
word from :attr:`Heatmap.fault` across it.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.image.saliency_map import degenerate
from lightning_saliency.rendering.colors import (
    FAINT,
    NON_FINITE,
    ColorScale,
    ramp_colors,
    ramp_opacity,
    strength,
)
from lightning_saliency.rendering.pixels import to_bytes

_HATCH_DARK, _HATCH_LIGHT = 0.55, 0.85
_STRIPES = 8
# What a map lies on where there is no image.
_ALONE = 0.2


@dataclass(frozen=True)
class Heatmap:
    """Colored maps, and what a reader has to know about them; indexing selects one sample.

    Attributes:
        color: (N, 3, H, W), float32 in [0, 1], on the CPU: the map alone, on dark gray; uint8
            after :meth:`as_bytes`.
        opacity: (N, 1, H, W), float32 in [0, 1]: how much each pixel shows of the map when it is
            laid over the image; 0 up to the map's mean, 1 in hatched maps.
        fault: for each map ``""``, or why it is hatched: it is degenerate, ``"NaN"`` (a pixel is
            not finite), ``"zero"`` or ``"constant"``; or ``"negative"`` (no pixel is positive, and
            ``signed`` is False). See
            :func:`~lightning_saliency.image.saliency_map.degenerate`.
        strength: mean absolute value of each map, in the map's units.
        clipped: for each map the fraction of its finite pixels at full color or beyond.
        non_finite: for each map the fraction of pixels that are NaN or infinite.
        scale: what the colors mean.
        signed: whether negative values have their own colors.
    """

    color: Tensor
    opacity: Tensor
    fault: tuple[str, ...]
    strength: tuple[float, ...]
    clipped: tuple[float, ...]
    non_finite: tuple[float, ...]
    scale: ColorScale
    signed: bool

    def __len__(self) -> int:
        return len(self.fault)

    def __getitem__(self, index: int) -> "Heatmap":
        chosen = range(len(self))[index]
        one = slice(chosen, chosen + 1)
        return replace(
            self,
            color=self.color[one],
            opacity=self.opacity[one],
            fault=self.fault[one],
            strength=self.strength[one],
            clipped=self.clipped[one],
            non_finite=self.non_finite[one],
        )

    def as_bytes(self, steps: int = 256) -> "Heatmap":
        """Return the same maps with their colors as uint8, for use in several pictures.

        Args:
            steps: see :func:`~lightning_saliency.rendering.to_bytes`.
        """
        return replace(self, color=to_bytes(self.color, steps))

    @property
    def relative_strength(self) -> tuple[float, ...]:
        """Each map's strength divided by that of the strongest first map; NaN if there is none."""
        first = self.scale.reference
        return tuple(value / first if first > 0 else torch.nan for value in self.strength)

    @property
    def faint(self) -> tuple[bool, ...]:
        """Whether each map has almost vanished, relative to the run's first maps."""
        return tuple(ratio < FAINT for ratio in self.relative_strength)


def heatmap(saliency: Tensor, scale: ColorScale, signed: bool = False) -> "Heatmap":
    """Color maps.

    Args:
        saliency: (N, 1, H, W), floating point, on any device; any values.
        scale: what the colors mean.
        signed: True gives negative values colors of their own (blue; warm is positive); False
            leaves them without.

    Returns:
        The pictures, and what they do not show, on the CPU.

    Raises:
        InputError: ``saliency`` has another shape, or no pixels.
    """
    if saliency.dim() != 4 or saliency.shape[1] != 1 or saliency.numel() == 0:
        raise InputError(f"Expected maps of shape (N, 1, H, W), got {tuple(saliency.shape)}.")
    maps = saliency.detach().double().cpu()
    position = scale.position(maps)
    if not signed:
        position = position.clamp(min=0)
    finite = maps.isfinite()
    position = torch.where(finite, position.nan_to_num(0.0), torch.nan)
    opacity = ramp_opacity(position)
    color = _ALONE + opacity * (ramp_colors(position) - _ALONE)
    color = torch.where(finite, color, torch.tensor(NON_FINITE).view(3, 1, 1))
    fault = _faults(maps, signed)
    faulty = torch.tensor([bool(word) for word in fault]).view(-1, 1, 1, 1)
    full = (position.abs() >= 1).flatten(1).sum(1).double()
    return Heatmap(
        color=torch.where(faulty, _hatch(maps.shape[2], maps.shape[3]), color),
        opacity=torch.where(faulty | ~finite, 1.0, opacity),
        fault=fault,
        strength=tuple(strength(maps).tolist()),
        clipped=tuple((full / finite.flatten(1).sum(1).clamp(min=1)).tolist()),
        non_finite=tuple((~finite).double().mean((1, 2, 3)).tolist()),
        scale=scale,
        signed=signed,
    )


def _faults(maps: Tensor, signed: bool) -> tuple[str, ...]:
    words = []
    for finite, missing, some, positive in zip(
        maps.isfinite().flatten(1).all(1).tolist(),
        degenerate(maps).tolist(),
        (maps != 0).flatten(1).any(1).tolist(),
        (maps > 0).flatten(1).any(1).tolist(),
        strict=True,
    ):
        if not finite:
            words.append("NaN")
        elif not some:
            words.append("zero")
        elif missing:
            words.append("constant")
        else:
            words.append("" if positive or signed else "negative")
    return tuple(words)


def _hatch(height: int, width: int) -> Tensor:
    """Return gray diagonal stripes (3, height, width), as many on a small map as on a large one."""
    period = max(4, max(height, width) // _STRIPES)
    diagonal = torch.arange(height)[:, None] + torch.arange(width)
    stripes = torch.where(diagonal % period < period / 2, _HATCH_DARK, _HATCH_LIGHT)
    return stripes.expand(3, height, width)


# Luma of ITU-R BT.601, what the eye takes for brightness.
_LUMA = (0.299, 0.587, 0.114)
# The image keeps this range of grays, from which all colors stand out.
_DARKEST, _BRIGHTEST = 0.2, 0.8


def overlay(image: Tensor, heat: Heatmap) -> Tensor:
    """Overlay the maps on their images: gray image where the map is low, its colors where high.

    The image is converted to gray, so that every color in the picture is the map's.

    Args:
        image: (N, 3, H, W), in [0, 1]; see :func:`~lightning_saliency.rendering.displayable`.
        heat: N colored maps; if their size differs from the image's, they are resized without
            blurring.

    Returns:
        (N, 3, H, W), float32 in [0, 1], on the CPU. Hatched maps cover their image.

    Raises:
        InputError: the image has another shape, or another number of samples than there are maps.
    """
    if image.dim() != 4 or image.shape[1] != 3 or len(image) != len(heat):
        raise InputError(
            f"Expected images of shape ({len(heat)}, 3, H, W), one for each map, got "
            f"{tuple(image.shape)}."
        )
    size = image.shape[2:]
    color, opacity = heat.color, heat.opacity
    if color.shape[2:] != size:
        color, opacity = (F.interpolate(part, size=size) for part in (color, opacity))
    luma = torch.tensor(_LUMA).view(1, 3, 1, 1)
    gray = (image.detach().float().cpu() * luma).sum(1, keepdim=True).clamp(0, 1)
    gray = _DARKEST + (_BRIGHTEST - _DARKEST) * gray
    # The color is that of the map on its own ground, which gives way to the image.
    return (color + (1 - opacity) * (gray - _ALONE)).clamp(0, 1)
