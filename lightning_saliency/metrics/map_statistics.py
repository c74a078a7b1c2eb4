"""Saliency maps in the form in which they are compared, and their statistics, computed once.

A map is compared several times: with the previous map of its image, with the pinned one, with that
of another image, and later with the next one. Most of the work, such as ranking its pixels, depends
on one map only.
"""

from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.image.saliency_map import (
    check_maps,
    degenerate,
    mean_ranks,
    to_float64,
    unit_range,
)


def canonical(maps: Tensor, size: int = 64) -> Tensor:
    """Return maps in the form in which they are kept and compared.

    They are downsampled, never enlarged, so that the longer side has at most ``size`` pixels; each
    new pixel is the mean of the area that it covers, and the aspect ratio is kept (to the pixel).

    Args:
        maps: (N, 1, H, W), floating point, any device; may need a gradient.
        size: longest side in pixels, >= 1.

    Returns:
        (N, 1, h, w), a detached copy on the same device; float64 for float64 maps, else float32. A
        constant map stays exactly constant, a NaN or inf anywhere leaves one in its area.

    Raises:
        InputError: ``maps`` are no maps, or ``size`` is below 1.
    """
    check_maps(maps)
    if size < 1:
        raise InputError(f"Expected maps to be compared at a size of at least 1 pixel, got {size}.")
    dtype = torch.promote_types(maps.dtype, torch.float32)
    longest = max(maps.shape[2:])
    if longest > size:
        height, width = (max(1, round(side * size / longest)) for side in maps.shape[2:])
        # In float64, where the mean of equal float32 values is that value.
        shrunk = F.interpolate(to_float64(maps), size=(height, width), mode="area")
        return shrunk.to(dtype).to(maps.device)
    return maps.detach().to(dtype, copy=True)


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

    def of(self, index: Tensor) -> "LocalStatistics":
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


class MapStatistics:
    """A batch of maps with statistics of each, computed on first use.

    All is in float64, on the device on which the measures compute (see
    :func:`~lightning_saliency.image.saliency_map.to_float64`), and takes eight times the memory of
    float32 maps once computed. For a degenerate map the statistics are undefined.

    Args:
        maps: (N, 1, H, W), floating point. They are not copied and must not be changed.

    Attributes:
        maps: as given, detached.

    Raises:
        InputError: ``maps`` are no maps.
    """

    def __init__(self, maps: Tensor) -> None:
        check_maps(maps)
        self.maps = maps.detach()

    def __len__(self) -> int:
        return len(self.maps)

    def of(self, index: Tensor) -> "MapStatistics":
        """Return some of the maps with their statistics; nothing is recomputed.

        Args:
            index: which, int64, (M,).
        """
        chosen = MapStatistics(self.maps[index.to(self.maps.device)])
        index = index.to(self.is_degenerate.device)
        for name, kind in vars(MapStatistics).items():
            if isinstance(kind, cached_property):
                value = getattr(self, name)
                rows = value.of(index) if isinstance(value, LocalStatistics) else value[index]
                setattr(chosen, name, rows)
        return chosen

    @property
    def wide(self) -> Tensor:
        """The maps in float64."""
        return to_float64(self.maps)

    @cached_property
    def is_degenerate(self) -> Tensor:
        """Which maps show nothing, bool (N,)."""
        return degenerate(self.wide)

    @cached_property
    def largest_tenth(self) -> Tensor:
        """Which pixels have the largest values, bool (N, H * W); see :func:`top_tenth`."""
        return top_tenth(self.wide).flatten(1)

    @cached_property
    def ranks(self) -> Tensor:
        """The ranks of the pixels (N, H * W), less their mean; equal values get their mean rank."""
        return mean_ranks(self.wide.flatten(1))

    @cached_property
    def local(self) -> LocalStatistics:
        """Means and variances around each pixel, of the maps scaled to [0, 1] by their ranges."""
        return local_statistics(unit_range(self.wide))

    @cached_property
    def center(self) -> Tensor:
        """The center of mass (N, 2) in pixels, (row, column), after subtracting the minimum."""
        mass = self.local.maps[:, 0]
        rows = torch.arange(mass.shape[1], device=mass.device, dtype=mass.dtype)
        columns = torch.arange(mass.shape[2], device=mass.device, dtype=mass.dtype)
        # No matrix product: its last digits depend on how many maps there are.
        center = torch.stack(((mass.sum(2) * rows).sum(1), (mass.sum(1) * columns).sum(1)), dim=1)
        return center / mass.sum((1, 2))[:, None]

    @cached_property
    def log2_norm(self) -> Tensor:
        """The logarithm of the sum of the magnitudes, (N,)."""
        return self.wide.flatten(1).abs().sum(1).log2()


def top_tenth(maps: Tensor) -> Tensor:
    """Mark the tenth of the pixels with the largest values, also in degenerate maps.

    See :func:`~lightning_saliency.metrics.map_similarity.top10`.

    Args:
        maps: (N, 1, H, W).

    Returns:
        (N, 1, H, W), bool.
    """
    flat = maps.flatten(1)
    count = max(1, round(0.1 * flat.shape[1]))
    # A map of one pixel has no second value; it is degenerate, and its result is not used.
    largest = flat.topk(min(count + 1, flat.shape[1]), dim=1).values
    marked = flat > largest[:, -1:]
    saturated = largest[:, :1] == largest[:, -1:]
    return torch.where(saturated, flat == largest[:, :1], marked).view_as(maps)
