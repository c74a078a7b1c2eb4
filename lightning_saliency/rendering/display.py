"""The model's input images, converted for display."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_saliency.errors import InputError

__all__ = ["displayable"]

# Un-normalizing and resampling exceed [0, 1] by this much; more means that the range is different.
_SLACK = 0.05


def displayable(
    image: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Tensor:
    """Return the images as RGB in [0, 1].

    Three channels are red, green and blue; of four, the first three are (the fourth is alpha or
    infrared, which a screen cannot show). One channel is gray. Two channels, or five and more, have
    no agreed colors, and the mean of the channels is shown in gray rather than colors that mean
    nothing.

    Values outside of [0, 1] after un-normalizing are scaled linearly, the smallest of the whole
    batch to 0 and the largest to 1, so that the samples of a batch stay comparable.

    Args:
        image: (N, C, H, W) of any real dtype, on any device; uint8 is taken as 0 to 255.
        mean: what was subtracted from each channel, one value or C; None for nothing.
        std: what each channel was divided by afterwards, one value or C, not 0; None for nothing.

    Returns:
        (N, 3, H, W), float32 in [0, 1], on the CPU; pixels that are not finite are black.

    Raises:
        InputError: the shape, or the length of ``mean`` or ``std``, is another; ``std`` holds 0.
    """
    if image.dim() != 4 or image.numel() == 0:
        raise InputError(f"Expected images of shape (N, C, H, W), got {tuple(image.shape)}.")
    shown = image.detach().cpu()
    shown = shown.float() / 255 if shown.dtype == torch.uint8 else shown.float()
    channels = image.shape[1]
    if std is not None:
        shown = shown * _per_channel("std", std, channels)
    if mean is not None:
        shown = shown + _per_channel("mean", mean, channels)
    shown = shown[:, :3] if channels in (3, 4) else shown.mean(1, keepdim=True)
    return _to_unit_range(shown).expand(-1, 3, -1, -1).contiguous()


def _per_channel(name: str, values: Sequence[float], channels: int) -> Tensor:
    factor = torch.as_tensor(values, dtype=torch.float32).flatten().cpu()
    if len(factor) not in (1, channels):
        raise InputError(
            f"Expected {name} to hold 1 or {channels} values, one for each channel of the images, "
            f"got {len(factor)}."
        )
    if not bool(factor.isfinite().all()) or (name == "std" and bool((factor == 0).any())):
        raise InputError(f"Expected {name} to be finite and std not 0, got {list(values)}.")
    return factor.view(1, -1, 1, 1)


def _to_unit_range(image: Tensor) -> Tensor:
    finite = image.isfinite()
    if not bool(finite.any()):
        return torch.zeros_like(image)
    low, high = image.where(finite, torch.inf).min(), image.where(finite, -torch.inf).max()
    if low < -_SLACK or high > 1 + _SLACK:
        # Halved, because the range of very large values can be infinite.
        span = (high / 2 - low / 2).clamp(min=torch.finfo(image.dtype).tiny)
        image = (image / 2 - low / 2) / span
    return torch.where(finite, image, 0.0).clamp(0, 1)
