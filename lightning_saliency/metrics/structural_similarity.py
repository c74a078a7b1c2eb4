"""SSIM of maps in [0, 1], in float64, as matrix products.

Wang, Bovik, Sheikh, Simoncelli. Image quality assessment: from error visibility to structural
similarity. IEEE TIP 2004.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LocalStatistics", "local_statistics", "structural_similarity"]


class LocalStatistics(NamedTuple):
    """The part of SSIM that depends on one map; all (N, 1, H, W), float64.

    Attributes:
        maps: in [0, 1].
        mean: of the window around each pixel.
        variance: in it, >= 0.
    """

    maps: Tensor
    mean: Tensor
    variance: Tensor

    def of(self, index: Tensor) -> LocalStatistics:
        """Return the statistics of some of the maps.

        Args:
            index: which, int64, (M,).
        """
        return LocalStatistics(*(each[index] for each in self))


def local_statistics(maps: Tensor) -> LocalStatistics:
    """Return means and variances in the window of the paper, a Gaussian of 11 pixels and sigma 1.5.

    The picture is reflected at its border. On a side of n < 6 pixels, which cannot be reflected
    that far, the window has 2 n - 1 pixels and sigma (n - 1) / 3.5.

    Args:
        maps: (N, 1, H, W), float64, in [0, 1].
    """
    mean, square = _smooth(torch.stack((maps, maps.square()))).unbind()
    return LocalStatistics(maps, mean, (square - mean.square()).clamp_min(0))


def structural_similarity(first: LocalStatistics, second: LocalStatistics) -> Tensor:
    """Return the mean structural similarity of each pair, with the constants of the paper.

    torchmetrics has a function with the same results. But it processes both maps again for each
    pair; its convolution with 11 x 11 weights is 30 times slower in float64 on a CPU; and in
    float32 the variances are small differences, so TF32 rounding on a GPU causes errors of up to
    0.04 for smooth maps.

    Args:
        first: of N maps.
        second: of as many, of the same shape, dtype and device.

    Returns:
        (N,), float64, in [-1, 1].
    """
    product = first.mean * second.mean
    covariance = _smooth(first.maps * second.maps) - product
    luminance = (2 * product + 0.01**2) / (first.mean.square() + second.mean.square() + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (first.variance + second.variance + 0.03**2)
    return (luminance * structure).flatten(1).mean(1).clamp(-1, 1)


def _smooth(images: Tensor) -> Tensor:
    rows = _window(images.shape[-2]).to(images.device)
    columns = _window(images.shape[-1]).to(images.device)
    return rows @ images @ columns.T


@lru_cache(maxsize=16)
def _window(side: int) -> Tensor:
    """Return the (side, side) matrix that averages with the Gaussian window of SSIM."""
    # Kept for later calls, which may be made in another mode and for another device.
    with torch.inference_mode(False), torch.device("cpu"):
        radius = min(5, side - 1)
        sigma = 1.5 if radius == 5 else max(radius, 1) / 3.5
        weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).double() / sigma) ** 2)
        pixels = F.pad(torch.eye(side).double()[None], (radius, radius), mode="reflect")[0]
        return (pixels.unfold(1, 2 * radius + 1, 1) @ (weights / weights.sum())).T
