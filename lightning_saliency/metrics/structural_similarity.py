"""SSIM of maps in [0, 1], in float64, as matrix products.

Wang, Bovik, Sheikh, Simoncelli. Image quality assessment: from error visibility to structural
similarity. IEEE TIP 2004.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["structural_similarity"]


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean structural similarity of each pair, for values with a range of 1.

    With the constants of the paper, its Gaussian window of 11 pixels and sigma 1.5, and the
    picture reflected at its border. On a side of n < 6 pixels, which cannot be reflected that far,
    the window has 2 n - 1 pixels and sigma (n - 1) / 3.5.

    torchmetrics has a function for this, which gives the same numbers. But its convolution with
    11 x 11 weights is 30 times slower in float64 on a CPU; and in float32, the variances are small
    differences, so that on a GPU the rounding to TF32 puts smooth maps off by up to 0.04.

    Args:
        first: (N, 1, H, W), float64, in [0, 1].
        second: of the same shape, dtype and device.

    Returns:
        (N,), float64, in [-1, 1].
    """
    rows = _window(first.shape[2]).to(first.device)
    columns = _window(first.shape[3]).to(first.device)
    images = torch.stack((first, second, first.square(), second.square(), first * second))
    mean_1, mean_2, mean_11, mean_22, mean_12 = (rows @ images @ columns.T).unbind()
    variances = (mean_11 - mean_1.square()).clamp_min(0) + (mean_22 - mean_2.square()).clamp_min(0)
    covariance = mean_12 - mean_1 * mean_2
    luminance = (2 * mean_1 * mean_2 + 0.01**2) / (mean_1.square() + mean_2.square() + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (variances + 0.03**2)
    return (luminance * structure).flatten(1).mean(1).clamp(-1, 1)


def _window(side: int) -> Tensor:
    """Return the (side, side) matrix that averages with the Gaussian window of SSIM."""
    radius = min(5, side - 1)
    sigma = 1.5 if radius == 5 else max(radius, 1) / 3.5
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).double() / sigma) ** 2)
    pixels = F.pad(torch.eye(side).double()[None], (radius, radius), mode="reflect")[0]
    return (pixels.unfold(1, 2 * radius + 1, 1) @ (weights / weights.sum())).T
