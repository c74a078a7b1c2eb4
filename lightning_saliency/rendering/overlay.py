"""Maps overlaid on the images that they explain."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.rendering.heatmap import Heatmap

__all__ = ["overlay"]

# Luma of ITU-R BT.601, what the eye takes for brightness.
_LUMA = (0.299, 0.587, 0.114)
# The image keeps this range of grays: dark enough for the bright end of the colormap to stand out.
_DARKEST, _BRIGHTEST = 0.1, 0.65
# Full color lets a little of the image through.
_MOST_OPAQUE = 0.9


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
    # The root brings out the middle of the scale, which is dark in the sequential colormap. In the
    # diverging one it is nearly white and would lie over the image like a haze.
    weight = opacity if heat.signed else opacity.sqrt()
    most = torch.tensor([1.0 if fault else _MOST_OPAQUE for fault in heat.fault])
    weight = weight * most.view(-1, 1, 1, 1)
    return (gray + weight * (color - gray)).clamp(0, 1)
