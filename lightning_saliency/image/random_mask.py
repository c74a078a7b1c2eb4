"""Random smooth masks: coarse grids of zeros and ones, upsampled with a random shift.

Petsiuk, Das, Saenko. RISE: randomized input sampling for explanation of black-box models.
BMVC 2018, arXiv:1806.07421.

Two designs are here. In :func:`independent_masks`, the paper's, every cell of every grid is drawn
by itself. In :func:`balanced_masks` the grids come in blocks in which each cell is kept as often
as not, each pair of cells is kept together as often as apart (the columns of a Hadamard matrix),
and each grid is followed by its complement (a fold-over). What a cell does to a score is then not
mixed up with what another cell, or a pair of cells, does to it, and fewer masks suffice.

All random numbers come from a generator of their own on the CPU, so that a seed gives the same
masks on every device and no other random stream is touched.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lightning_saliency.errors import InputError

# Its multiples, modulo 1, fill the square evenly (1.3247 is the root of x**3 = x + 1).
_STEP = 1 / 1.324717957244746 ** torch.tensor([1.0, 2.0], dtype=torch.float64)


class Upsampling:
    """Smooth upsampling of a coarse grid to an image, for each shift by less than a cell.

    A cell of the grid is ``ceil(height / rows)`` pixels high. The grid is enlarged by bilinear
    interpolation to one cell more than the image in each direction, and the image is cut out of
    it at an offset, the shift. That is linear and separable: ``vertical[s] @ grid @
    horizontal[t].T`` for a shift by s pixels down and t to the right.

    Attributes:
        vertical: (shifts, H, rows), each row >= 0 with sum 1.
        horizontal: (shifts, W, columns), likewise.
        reflect: as given.

    Args:
        size: (H, W) of the image in pixels.
        num_cells: (rows, columns) of the grid.
        reflect: how TorchRay does it: the spacing of the cells is rounded up to whole pixels, and
            beyond the outermost cells the grid is mirrored, not constant.
        device: where the matrices are.
        dtype: floating dtype of the matrices and of the masks.

    Raises:
        InputError: the grid is finer than the image.
    """

    def __init__(
        self,
        size: tuple[int, int],
        num_cells: tuple[int, int],
        reflect: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if num_cells[0] > size[0] or num_cells[1] > size[1]:
            raise InputError(
                f"Expected num_cells of at most the image's size of {size[0]} x {size[1]} pixels, "
                f"got {num_cells[0]} x {num_cells[1]} cells."
            )
        self.reflect = reflect
        self.vertical, self.horizontal = (
            _upsampling_matrices(length, cells, reflect).to(device, dtype)
            for length, cells in zip(size, num_cells, strict=True)
        )

    @property
    def num_cells(self) -> tuple[int, int]:
        """(rows, columns) of the grid."""
        return self.vertical.shape[2], self.horizontal.shape[2]

    @property
    def num_shifts(self) -> tuple[int, int]:
        """How many shifts there are down and to the right: the size of a cell in pixels."""
        return len(self.vertical), len(self.horizontal)

    def sum_of(self, grids: Tensor, shifts: Tensor) -> Tensor:
        """Upsample grids, each with its shift, and add them up.

        Args:
            grids: (S, R, rows, columns), for S shifts and R results.
            shifts: (S, 2), int64.

        Returns:
            (R, H, W), of the grids' dtype.
        """
        # Shifts that are alike downwards are added up first: there are many more than a cell has
        # pixels.
        down, group = torch.unique(shifts[:, 0], return_inverse=True)
        add_up = (group == torch.arange(len(down), device=group.device)[:, None]).to(grids)
        tall = self.vertical[down.to(self.vertical.device)].transpose(0, 1).flatten(1)
        wide = self.horizontal[shifts[:, 1].to(self.horizontal.device)].mT
        shape = grids.shape[1], self.vertical.shape[1], self.horizontal.shape[1]
        maps = grids.new_empty(shape)
        # For many classes at once what comes between would be larger than the maps.
        for some, result in zip(torch.split(grids, 64, 1), torch.split(maps, 64), strict=True):
            rows = some.flatten(1, 2) @ wide
            alike = (add_up @ rows.flatten(1)).reshape(len(down), *some.shape[1:3], -1)
            torch.matmul(tall, alike.transpose(0, 1).flatten(1, 2), out=result)
        return maps


def _upsampling_matrices(length: int, cells: int, reflect: bool) -> Tensor:
    cell = -(-length // cells)
    spacing = float(-(-(length + cell) // cells)) if reflect else (cells + 1) * cell / cells
    pixel = torch.arange(cell)[:, None] + torch.arange(length) + 0.5
    position = pixel.double() / spacing - 0.5
    below = position.floor()
    weight = position - below
    matrices = torch.zeros(cell, length, cells, dtype=torch.float64)
    for index, share in ((below, 1 - weight), (below + 1, weight)):
        if reflect:
            index = (cells - 1) - ((cells - 1) - index.abs()).abs()
        index = index.clamp(0, cells - 1).long()
        matrices.scatter_add_(2, index[..., None], share[..., None])
    return matrices


@dataclass(frozen=True)
class MaskBlock:
    """Masks that were drawn together, kept as their grids.

    Attributes:
        grids: (M, rows, columns), 1 where a cell is kept, else 0.
        shifts: (M, 2) pixels down and to the right, int64, on the CPU; (1, 2) where all masks have
            the same.
        upsampling: how the grids become masks.
    """

    grids: Tensor
    shifts: Tensor
    upsampling: Upsampling

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.grids)

    @cached_property
    def masks(self) -> Tensor:
        """The masks (M, 1, H, W) in [0, 1], 1 = keep."""
        shifts = self.shifts.to(self.grids.device)
        vertical = self.upsampling.vertical[shifts[:, 0]]
        horizontal = self.upsampling.horizontal[shifts[:, 1]]
        return (vertical @ self.grids @ horizontal.mT)[:, None]

    def add_weighted(self, weights: Tensor, total: Tensor) -> None:
        """Add the masks, each times its weight, to ``total``.

        With one shift for all masks the grids are summed and only the sum is upsampled. Nothing
        of the size of ``total`` is made beside it: there may be a map for each of many classes.

        Args:
            weights: (..., M), of the masks' dtype.
            total: (..., H, W), contiguous; written to.
        """
        weights = weights.reshape(-1, len(self))
        if len(self.shifts) > 1:
            total.view(len(weights), -1).addmm_(weights, self.masks.flatten(1))
            return
        down, right = self.shifts[0].tolist()
        grids = (weights @ self.grids.flatten(1)).reshape(-1, *self.grids.shape[1:])
        tall = (self.upsampling.vertical[down] @ grids).flatten(0, 1)
        total.view(-1, total.shape[-1]).addmm_(tall, self.upsampling.horizontal[right].T)


def independent_masks(
    upsampling: Upsampling, num_masks: int, p: float = 0.5, seed: int = 0, block_size: int = 128
) -> Iterator[MaskBlock]:
    """Draw every cell and every shift independently, as in the paper.

    Args:
        upsampling: of the grids to the image.
        num_masks: how many masks in all.
        p: probability that a cell is kept.
        seed: of the random numbers.
        block_size: how many masks a block has; the last one has what is left. It decides in which
            order the random numbers are used, so another size gives other masks.

    Yields:
        Blocks in which each mask has its own shift.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = upsampling.num_cells
    for start in range(0, num_masks, block_size):
        count = min(block_size, num_masks - start)
        grids = torch.rand(count, 1, rows, columns, generator=generator) < p
        shifts = [
            torch.randint(0, shift, (count,), generator=generator)
            for shift in upsampling.num_shifts
        ]
        yield _block(grids[:, 0], torch.stack(shifts, 1), upsampling)


def balanced_masks(upsampling: Upsampling, num_masks: int, seed: int = 0) -> Iterator[MaskBlock]:
    """Draw blocks of masks in which the cells are exactly balanced, each kept half of the time.

    A block is a Hadamard matrix of the smallest order 2**k that has a column for each cell,
    followed by its negative. Each cell takes one of the columns, at random and with a random sign;
    +1 keeps the cell, -1 does not. All masks of a block have one shift; from a random one on, the
    shifts of the blocks are spread evenly, as are those of every second block.

    Args:
        upsampling: of the grids to the image.
        num_masks: how many masks at least; rounded up to whole blocks, see
            :func:`balanced_block_size`.
        seed: of the random numbers.

    Yields:
        Blocks in which the mean of the masks is 1/2 at each pixel.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = upsampling.num_cells
    size = balanced_block_size(rows * columns)
    design = hadamard_matrix(size // 2)
    start = torch.rand(2, dtype=torch.float64, generator=generator)
    for index in range(-(-num_masks // size)):
        chosen = torch.randperm(len(design), generator=generator)[: rows * columns]
        signs = 2 * torch.randint(0, 2, (rows * columns,), generator=generator) - 1
        runs = design[:, chosen] * signs
        grids = torch.cat([runs, -runs]).reshape(size, rows, columns) > 0
        # One even sequence of shifts for each half of the blocks, half a cell from the other.
        point = (start + index // 2 * _STEP + index % 2 / 2) % 1
        shift = (point * torch.tensor(upsampling.num_shifts)).long()
        yield _block(grids, shift[None], upsampling)


def balanced_block_size(cells: int) -> int:
    """Return how many masks a balanced block has: 128 for 49 cells.

    Args:
        cells: how many cells a grid has, >= 1.
    """
    # Twice the smallest power of two that is at least the number of cells.
    return int(2 << (cells - 1).bit_length())


def hadamard_matrix(order: int) -> Tensor:
    """Return Sylvester's matrix of +1 and -1 with orthogonal columns, the first of them all +1.

    Args:
        order: a power of two.

    Returns:
        (order, order), int64.

    Raises:
        InputError: ``order`` is no power of two.
    """
    if order < 1 or order & (order - 1):
        raise InputError(f"Expected a power of two as order, got {order}.")
    matrix = torch.ones(1, 1, dtype=torch.int64)
    while len(matrix) < order:
        matrix = torch.kron(torch.tensor([[1, 1], [1, -1]]), matrix)
    return matrix


def _block(grids: Tensor, shifts: Tensor, upsampling: Upsampling) -> MaskBlock:
    like = upsampling.vertical
    return MaskBlock(grids.to(like.device, like.dtype), shifts, upsampling)
