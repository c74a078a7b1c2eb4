"""Pictures without one of their parts: without a cell of a grid, or without a kind of content.

A removed cell is filled in from its rim, or exchanged with the same cell of another picture: what
is removed looks neither like a hole nor, always, like the picture's own surroundings. The contents
are bands of detail, which sum to the picture: what a Gaussian of 1 pixel takes away, what one of 2
and one of 4 pixels take away beyond that, the rest, and each channel's mean.
"""

from itertools import pairwise

import torch
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.image.blur import gaussian_blur
from lightning_saliency.image.imputation import fill_in

CONTENTS = ("fine", "middle", "coarse", "low", "level")
"""The kinds of content, from the finest to the mean of each channel."""

# In pixels, of pictures whose shorter side has so many; in proportion for larger ones.
_SIGMAS = (1.0, 2.0, 4.0)
_SIDE = 48


def cell_bounds(size: tuple[int, int], grid: int) -> list[tuple[slice, slice]]:
    """Return the rows and columns of each cell of a grid over a picture, row by row.

    Args:
        size: (height, width) in pixels, at least 2 for each cell.
        grid: G cells a side, at least 2.

    Returns:
        G * G pairs that cover every pixel once; cells differ by at most one pixel a side.

    Raises:
        InputError: the grid is too small, or too fine for the picture.
    """
    if isinstance(grid, bool) or not isinstance(grid, int) or grid < 2:
        raise InputError(f"Expected a grid of at least 2 cells a side, got {grid!r}.")
    if min(size) < 2 * grid:
        raise InputError(
            f"Expected pictures of at least {2 * grid} x {2 * grid} pixels for a grid of {grid} x "
            f"{grid} cells, got {size[0]} x {size[1]}. Take a coarser grid, for instance "
            f"grid={max(2, min(size) // 2)}."
        )
    rows, columns = (
        [slice(side * n // grid, side * (n + 1) // grid) for n in range(grid)] for side in size
    )
    return [(row, column) for row in rows for column in columns]


def filled_cells(image: Tensor, grid: int) -> Tensor:
    """Return the pictures with each cell filled in from around it, as if it alone were missing.

    See :func:`~lightning_saliency.image.imputation.fill_in`: only the rim of a cell has a say in
    what fills it.

    Args:
        image: (N, C, H, W), floating point.
        grid: G cells a side, see :func:`cell_bounds`.

    Returns:
        (N, C, H, W), float32 at least: in each cell what stands there when this cell is removed.
    """
    size = image.shape[2], image.shape[3]
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    filled = torch.empty_like(image)
    for rows, columns in cell_bounds(size, grid):
        top, left = max(0, rows.start - 1), max(0, columns.start - 1)
        part = image[..., top : rows.stop + 1, left : columns.stop + 1]
        inside = (
            slice(rows.start - top, rows.stop - top),
            slice(columns.start - left, columns.stop - left),
        )
        known = torch.ones_like(part[:, :1], dtype=torch.bool)
        known[(..., *inside)] = False
        filled[..., rows, columns] = fill_in(part, known)[(..., *inside)]
    return filled


def contents(image: Tensor) -> Tensor:
    """Divide pictures into kinds of content, which sum to them.

    Args:
        image: (N, C, H, W), floating point.

    Returns:
        (5, N, C, H, W), float32 at least, in the order of :data:`CONTENTS`. The widths of the
        Gaussians, 1, 2 and 4 pixels, grow in proportion where the shorter side is above 48 pixels.
    """
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    scale = max(1.0, min(image.shape[2:]) / _SIDE)
    blurred = [image, *(gaussian_blur(image, scale * sigma) for sigma in _SIGMAS)]
    level = image.mean((2, 3), keepdim=True).expand_as(image)
    bands = [finer - coarser for finer, coarser in pairwise(blurred)]
    return torch.stack([*bands, blurred[-1] - level, level])
