"""Images perturbed pixel by pixel by a mask.

Section 3.1 of Fong, Patrick, Vedaldi. Understanding deep networks via extremal perturbations and
smooth masks. ICCV 2019, arXiv:1910.08485.

An image is perturbed to several degrees once, from fully to not at all; these are its levels. A
mask value then picks, for each pixel, a place between the two nearest levels.
"""

from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.image.blur import gaussian_blur

PerturbationKind: TypeAlias = Literal["blur", "fade"]
"""How information is removed: by a Gaussian blur, or by fading towards zero."""


def perturbation_levels(
    image: Tensor,
    kind: PerturbationKind = "blur",
    num_levels: int = 8,
    max_blur: float = 20.0,
    *,
    padding: str = "replicate",
    truncate: float = 3.0,
) -> Tensor:
    """Perturb images to ``num_levels`` degrees, evenly spaced, down to not at all.

    Args:
        image: (N, C, H, W), floating point.
        kind: ``"blur"``: level l is blurred with sigma ``max_blur * (1 - l / (L - 1))``;
            ``"fade"``: it is multiplied by ``l / (L - 1)``.
        num_levels: L, at least 2.
        max_blur: sigma of the first level's blur, in pixels, >= 0.
        padding: what the blur meets outside the image; see
            :func:`~lightning_saliency.image.blur.gaussian_blur`, as for ``truncate``.
        truncate: where the blur's kernel ends, in sigmas.

    Returns:
        (N, L, C, H, W), same dtype; ``[:, 0]`` is fully perturbed, ``[:, -1]`` is the image.

    Raises:
        InputError: a setting is out of its range.
    """
    if kind not in get_args(PerturbationKind):
        raise InputError(f"Expected perturbation 'blur' or 'fade', got '{kind}'.")
    if num_levels < 2:
        raise InputError(f"Expected at least 2 levels of perturbation, got {num_levels}.")
    intact = [level / (num_levels - 1) for level in range(num_levels)]
    if kind == "fade":
        levels = [share * image for share in intact]
    else:
        levels = [
            gaussian_blur(image, (1 - share) * max_blur, padding, truncate) for share in intact
        ]
    return torch.stack(levels, dim=1)


def blend(levels: Tensor, mask: Tensor, *, slope_at_one: bool = True) -> Tensor:
    """Perturb each image by each of its masks.

    The value is linear between two levels. Where a mask lies exactly on a level, the derivative is
    the one towards the next level; at 1, where there is none, it is the one from below.

    Args:
        levels: (N, L, C, H, W), from :func:`perturbation_levels`; no gradient is taken of them.
        mask: (N, A, H, W), values in [0, 1], floating point; 1 keeps the pixel, 0 perturbs it
            fully.
        slope_at_one: False makes the derivative 0 where the mask is exactly 1, as TorchRay has
            it. A pixel that is fully on can then not be turned off by the score.

    Returns:
        (N, A, C, H, W), in the levels' dtype.

    Raises:
        InputError: the shapes do not fit.
    """
    if levels.dim() != 5 or mask.dim() != 4 or _outer_sizes(levels) != _outer_sizes(mask):
        raise InputError(
            "Expected levels (N, L, C, H, W) and masks (N, A, H, W) with the same N, H and W, got "
            f"{tuple(levels.shape)} and {tuple(mask.shape)}."
        )
    blended: Tensor = _Blend.apply(mask, levels, slope_at_one)
    return blended


def _outer_sizes(tensor: Tensor) -> tuple[int, ...]:
    return (len(tensor), *tensor.shape[-2:])


class _Blend(torch.autograd.Function):
    """Only the slope (the next level minus this one) is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, mask: Tensor, levels: Tensor, slope_at_one: bool) -> Tensor:
        steps = levels.shape[1] - 1
        height = mask * steps
        # The last level has no next one; from below, 1 belongs to the interval before it.
        level = height.floor().clamp_(0, steps - 1)
        place = (height - level)[:, :, None].to(levels.dtype)
        index = level.long()[:, :, None].expand(*mask.shape[:2], *levels.shape[2:])
        lower = levels.gather(1, index)
        upper = levels.gather(1, index + 1)
        blended = torch.lerp(lower, upper, place.expand_as(lower))
        slope = upper.sub_(lower)
        if not slope_at_one:
            slope = slope.masked_fill_((height >= steps)[:, :, None], 0)
        ctx.save_for_backward(slope)
        ctx.steps, ctx.dtype = steps, mask.dtype
        return blended

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        gradient = (gradients[0] * slope).to(ctx.dtype).sum(2)
        return gradient.mul_(ctx.steps), None, None
