"""Smooth masks against the paper's formula, pixel by pixel, and against TorchRay."""

import math
import warnings

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_saliency.errors import InputError
from lightning_saliency.image.smooth_mask import SmoothMask

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchray.attribution.extremal_perturbation import MaskGenerator

CASES = [((10, 13), 3, 5.0), ((9, 7), 2, 6.0), ((6, 5), 1, 2.5), ((12, 12), 7, 21.0)]
every_case = pytest.mark.parametrize(("size", "step", "sigma"), CASES)


def grids(count: int, smooth: SmoothMask, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    grid = torch.rand(count, *smooth.grid_size, generator=generator, dtype=torch.float64)
    grid[0, 0, 0], grid[0, -1, -1] = 0, 1
    return grid.to(dtype)


def naive_mask(grid: Tensor, size: tuple[int, int], step: int, sigma: float) -> Tensor:
    """The soft maximum over the points near each pixel; those beyond the grid have value 0.

    Which points are near is settled by whole cells: those of a window around the pixel's cell,
    with one cell of slack.
    """
    radius = 1 + math.ceil(sigma / step)
    shift = 1 + math.ceil(2 * sigma / step)
    margin = round(sigma)
    masks = torch.zeros(len(grid), *size, dtype=grid.dtype)
    rows, columns = grid.shape[1:]
    for b in range(len(grid)):
        for y in range(size[0]):
            for x in range(size[1]):
                top, left = ((u + margin) // step - shift for u in (y, x))
                above = below = 0.0
                for i in range(top, top + 2 * radius + 1):
                    for j in range(left, left + 2 * radius + 1):
                        inside = 0 <= i < rows and 0 <= j < columns
                        value = float(grid[b, i, j]) if inside else 0.0
                        distance = math.hypot(y - i * step, x - j * step)
                        contribution = value * math.exp(-2 * max(distance / sigma - 0.5, 0) ** 2)
                        above += contribution * math.exp(20 * contribution)
                        below += math.exp(20 * contribution)
                masks[b, y, x] = above / below
    return masks


@every_case
def test_equals_the_naive_loop(size: tuple[int, int], step: int, sigma: float) -> None:
    smooth = SmoothMask(size, step, sigma)
    grid = grids(2, smooth)
    torch.testing.assert_close(smooth(grid), naive_mask(grid, size, step, sigma))


@pytest.mark.parametrize(
    ("size", "step", "sigma"), [((24, 30), 7, 21), ((16, 11), 2, 6), ((20, 33), 4, 12)]
)
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
def test_equals_torchray(size: tuple[int, int], step: int, sigma: int) -> None:
    theirs, ours = MaskGenerator(size, step, sigma), SmoothMask(size, step, sigma)
    assert tuple(theirs.shape_in) == ours.grid_size
    assert tuple(theirs.shape_out) == ours.canvas_size
    grid = grids(3, ours, torch.float32).requires_grad_()
    image, canvas = theirs.generate(grid[:, None])
    torch.testing.assert_close(ours(grid), image[:, 0], rtol=0, atol=5e-6)
    torch.testing.assert_close(ours.on_canvas(grid), canvas[:, 0], rtol=0, atol=5e-6)
    torch.testing.assert_close(ours.crop(canvas[:, 0]), image[:, 0])
    weights = torch.randn(canvas.shape, generator=torch.Generator().manual_seed(4))
    (wanted,) = torch.autograd.grad((canvas * weights).sum(), grid)
    (came,) = torch.autograd.grad((ours.on_canvas(grid) * weights[:, 0]).sum(), grid)
    torch.testing.assert_close(came, wanted, rtol=1e-4, atol=1e-4)


@every_case
def test_slope_is_that_of_finite_differences(
    size: tuple[int, int], step: int, sigma: float
) -> None:
    smooth = SmoothMask(size, step, sigma)
    grid = grids(1, smooth).requires_grad_()
    assert torch.autograd.gradcheck(smooth, grid, fast_mode=True)
    assert torch.autograd.gradcheck(smooth.on_canvas, grid, fast_mode=True)


@every_case
def test_image_is_cut_out_of_the_canvas(size: tuple[int, int], step: int, sigma: float) -> None:
    smooth = SmoothMask(size, step, sigma)
    grid = grids(2, smooth)
    torch.testing.assert_close(smooth.crop(smooth.on_canvas(grid)), smooth(grid))


def test_masks_of_a_batch_are_those_of_one_at_a_time() -> None:
    # 40 masks of 64 x 48 pixels are worked on in several pieces.
    smooth = SmoothMask((64, 48), 3, 9)
    grid = grids(40, smooth, torch.float32).requires_grad_()
    together = smooth(grid)
    (slope,) = torch.autograd.grad(together.square().sum(), grid)
    for b in (0, 17, 39):
        alone = grid[b : b + 1].detach().requires_grad_()
        mask = smooth(alone)
        torch.testing.assert_close(mask, together[b : b + 1])
        (wanted,) = torch.autograd.grad(mask.square().sum(), alone)
        torch.testing.assert_close(slope[b : b + 1], wanted)


def test_no_point_gives_no_mask_and_one_point_a_disc() -> None:
    smooth = SmoothMask((41, 41), 4, 8)
    grid = torch.zeros(2, *smooth.grid_size)
    grid[1, 5, 5] = 1
    nothing, disc = smooth(grid)
    assert torch.equal(nothing, torch.zeros(41, 41))
    torch.testing.assert_close(disc[20, 20], disc.max())
    assert disc[20, 16:25].min() > 0.9
    assert disc[20, 33:].max() < 0.01
    # Where the window of points ends, it does so sooner on one side.
    inside = disc[8:33, 8:33]
    torch.testing.assert_close(inside, inside.T)
    torch.testing.assert_close(inside, inside.flip(0))
    assert 0.9 < disc.max() <= 1


class _Largest(TorchDispatchMode):
    """Notes how large the largest tensor is that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor) and value.untyped_storage().nbytes():
                held = value.untyped_storage().nbytes() // value.element_size()
                self.numel = max(self.numel, held)
        return result


def test_memory_is_a_few_times_that_of_the_masks() -> None:
    # The 81 points that a pixel sees at step 7 and sigma 21 are never all in memory.
    smooth = SmoothMask((224, 160), 7, 21)
    grid = grids(2, smooth, torch.float32).requires_grad_()
    with _Largest() as largest:
        smooth(grid).square().sum().backward()
    assert largest.numel <= 4 * 2 * 224 * 160


@pytest.mark.parametrize("step", [0, -1, 2.5])
def test_bad_step(step: float) -> None:
    with pytest.raises(InputError, match="step to be a whole number"):
        SmoothMask((8, 8), step, 3)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_bad_sigma(sigma: float) -> None:
    with pytest.raises(InputError, match="sigma > 0"):
        SmoothMask((8, 8), 2, sigma)


def test_bad_grids() -> None:
    smooth = SmoothMask((8, 8), 2, 3)
    with pytest.raises(InputError, match=r"shape \(B, 4, 4\), got \(1, 4, 5\)"):
        smooth(torch.ones(1, 4, 5))
    with pytest.raises(InputError, match="float32 or float64"):
        smooth(torch.ones(1, 4, 4, dtype=torch.bfloat16))
