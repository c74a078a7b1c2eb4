"""The masks of RISE: what the paper says, and what the balanced design promises."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.image.random_mask import (
    MaskBlock,
    Upsampling,
    balanced_block_size,
    balanced_masks,
    hadamard_matrix,
    independent_masks,
)

SIZES = [((64, 64), (7, 7)), ((40, 33), (7, 7)), ((17, 90), (3, 11)), ((8, 8), (7, 7))]
every_size = pytest.mark.parametrize(("size", "cells"), SIZES)
both_edges = pytest.mark.parametrize("reflect", [False, True])


def upsampling(
    size: tuple[int, int] = (24, 36), cells: tuple[int, int] = (7, 7), **kwargs: object
) -> Upsampling:
    return Upsampling(size, cells, **{"dtype": torch.float64, **kwargs})


def columns(block: MaskBlock) -> Tensor:
    """The cells as the columns of a design with -1 and +1, one row for each mask."""
    return 2 * block.grids.flatten(1) - 1


# --- upsampling -------------------------------------------------------------------------------


@every_size
@both_edges
def test_a_mask_is_a_smooth_mixture_of_its_cells(
    size: tuple[int, int], cells: tuple[int, int], reflect: bool
) -> None:
    table = upsampling(size, cells, reflect=reflect)
    for matrices, length, count in zip(
        (table.vertical, table.horizontal), size, cells, strict=True
    ):
        assert matrices.shape == (math.ceil(length / count), length, count)
        assert (matrices >= 0).all()
        torch.testing.assert_close(matrices.sum(2), torch.ones(matrices.shape[:2]).double())
        # Next to each other, pixels differ by at most one pixel's share of a cell.
        assert (matrices.diff(dim=1).abs() <= count / length + 1e-12).all()


@every_size
def test_upsampling_is_the_papers(size: tuple[int, int], cells: tuple[int, int]) -> None:
    table = upsampling(size, cells)
    grid = torch.rand(1, 1, *cells, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cell = [math.ceil(length / count) for length, count in zip(size, cells, strict=True)]
    large = F.interpolate(
        grid,
        size=[(n + 1) * c for n, c in zip(cells, cell, strict=True)],
        mode="bilinear",
        align_corners=False,
    )
    for down in (0, cell[0] - 1):
        for right in (0, cell[1] - 1):
            wanted = large[:, :, down : down + size[0], right : right + size[1]]
            came = table.vertical[down] @ grid @ table.horizontal[right].mT
            torch.testing.assert_close(came, wanted)


def test_grid_finer_than_the_image() -> None:
    with pytest.raises(InputError, match="at most the image's size of 6 x 20"):
        Upsampling((6, 20), (7, 7))
    Upsampling((7, 20), (7, 20))


def test_one_cell() -> None:
    for reflect in (False, True):
        assert (Upsampling((5, 6), (1, 1), reflect).vertical == 1).all()


# --- one block --------------------------------------------------------------------------------


@pytest.mark.parametrize("design", [independent_masks, balanced_masks])
def test_masks_and_their_weighted_sum_one_by_one(design: object) -> None:
    table = upsampling()
    for block in design(table, 128, seed=3):
        shifts = block.shifts.expand(len(block), 2).tolist()
        wanted = [
            table.vertical[down] @ grid @ table.horizontal[right].T
            for grid, (down, right) in zip(block.grids, shifts, strict=True)
        ]
        torch.testing.assert_close(block.masks, torch.stack(wanted)[:, None])
        weights = torch.randn(2, 3, len(block), dtype=torch.float64)
        total = torch.zeros(2, 3, 24, 36, dtype=torch.float64)
        for i in range(2):
            for k in range(3):
                for m, mask in enumerate(wanted):
                    total[i, k] += weights[i, k, m] * mask
        came = torch.ones(2, 3, 24, 36, dtype=torch.float64)
        block.add_weighted(weights, came)
        torch.testing.assert_close(came, 1 + total)
        came = torch.ones(24, 36, dtype=torch.float64)
        block.add_weighted(weights[0, 0], came)
        torch.testing.assert_close(came, 1 + total[0, 0])


def test_masks_lie_between_0_and_1() -> None:
    for block in balanced_masks(upsampling(dtype=torch.float32), 128):
        assert block.masks.shape == (128, 1, 24, 36)
        assert block.masks.dtype == torch.float32
        assert block.masks.min() >= -1e-6
        assert block.masks.max() <= 1 + 1e-6
        assert block.masks.std() > 0.2


# --- the balanced design ----------------------------------------------------------------------

every_grid = pytest.mark.parametrize(
    ("cells", "block_size"),
    [((7, 7), 128), ((8, 8), 128), ((5, 13), 256), ((1, 1), 2), ((2, 2), 8), ((4, 15), 128)],
)


@every_grid
def test_columns_of_a_block_are_orthogonal_and_balanced(
    cells: tuple[int, int], block_size: int
) -> None:
    assert balanced_block_size(cells[0] * cells[1]) == block_size
    for block in balanced_masks(upsampling((32, 45), cells), 3 * block_size, seed=1):
        design = columns(block)
        assert design.shape == (block_size, cells[0] * cells[1])
        assert torch.equal(design.abs(), torch.ones_like(design))
        assert torch.equal(design.sum(0), torch.zeros(design.shape[1]).double())
        assert torch.equal(design.T @ design, block_size * torch.eye(design.shape[1]).double())


@every_grid
def test_second_half_is_the_complement(cells: tuple[int, int], block_size: int) -> None:
    (block,) = balanced_masks(upsampling((32, 45), cells), 1)
    first, second = block.grids.chunk(2)
    assert torch.equal(first + second, torch.ones_like(first))
    torch.testing.assert_close(
        sum(block.masks.chunk(2)), torch.ones(len(first), 1, 32, 45).double()
    )


def test_no_cell_is_confused_with_a_pair_of_cells() -> None:
    # That is what the complements are for: each column times a product of two others sums to 0.
    (block,) = balanced_masks(upsampling(cells=(3, 3)), 1)
    design = columns(block)
    triples = torch.einsum("ma,mb,mc->abc", design, design, design)
    assert torch.equal(triples, torch.zeros_like(triples))


@every_size
def test_mean_of_a_block_is_one_half_everywhere(
    size: tuple[int, int], cells: tuple[int, int]
) -> None:
    for block in balanced_masks(upsampling(size, cells), 128):
        torch.testing.assert_close(block.masks.mean(0), torch.full((1, *size), 0.5).double())


def test_number_is_rounded_up_to_whole_blocks() -> None:
    for wanted, blocks in ((1, 1), (128, 1), (129, 2), (1000, 8)):
        assert [len(block) for block in balanced_masks(upsampling(), wanted)] == [128] * blocks


def test_blocks_differ_in_their_columns_and_shifts() -> None:
    blocks = list(balanced_masks(upsampling((70, 70)), 40 * 128))
    assert len({tuple(block.grids.flatten().tolist()) for block in blocks}) == 40
    shifts = torch.cat([block.shifts for block in blocks])
    assert shifts.shape == (40, 2)
    for some in (shifts, shifts[::2], shifts[1::2]):
        # 10 shifts in each direction: all thirds of a cell are met about as often.
        counts = torch.stack([torch.bincount(3 * axis // 10, minlength=3) for axis in some.T])
        assert counts.shape == (2, 3)
        assert (counts / len(some) - 1 / 3).abs().max() < 0.15
    # Which columns are taken and with which sign varies by cell, so masks have no fixed partner.
    repeated = torch.stack([columns(block)[0] for block in blocks]).mean(0)
    assert repeated.abs().max() < 0.6


@pytest.mark.parametrize("order", [1, 2, 8, 64])
def test_hadamard_matrix(order: int) -> None:
    matrix = hadamard_matrix(order)
    assert torch.equal(matrix.T @ matrix, order * torch.eye(order, dtype=torch.int64))
    assert torch.equal(matrix[:, 0], torch.ones(order, dtype=torch.int64))


@pytest.mark.parametrize("order", [0, 12, -4])
def test_hadamard_matrix_of_another_order(order: int) -> None:
    with pytest.raises(InputError, match="power of two"):
        hadamard_matrix(order)


# --- independent masks ------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_independent_cells_are_kept_with_p(p: float) -> None:
    blocks = list(independent_masks(upsampling((70, 70)), 3000, p))
    assert [len(block) for block in blocks] == [128] * 23 + [56]
    grids = torch.cat([block.grids for block in blocks])
    # Five standard errors.
    assert (grids.mean(0) - p).abs().max() < 5 * math.sqrt(p * (1 - p) / 3000)
    correlation = torch.corrcoef(grids.flatten(1).T) - torch.eye(49).double()
    assert correlation.abs().max() < 5 / math.sqrt(3000)
    shifts = torch.cat([block.shifts for block in blocks])
    counts = torch.stack([torch.bincount(axis, minlength=10) for axis in shifts.T])
    assert counts.shape == (2, 10)
    assert (counts - 300).abs().max() < 5 * math.sqrt(300)


# --- the random stream ------------------------------------------------------------------------


@pytest.mark.parametrize("design", [independent_masks, balanced_masks])
def test_a_seed_gives_the_same_masks_whatever_else_is_drawn(design: object) -> None:
    def masks(seed: int) -> Tensor:
        return torch.cat([block.masks for block in design(upsampling(), 256, seed=seed)])

    first = masks(5)
    torch.rand(7)
    state = torch.get_rng_state()
    assert torch.equal(masks(5), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(masks(6), first)


@pytest.mark.parametrize("design", [independent_masks, balanced_masks])
def test_more_masks_begin_with_the_same(design: object) -> None:
    few, many = (
        torch.cat([block.grids for block in design(upsampling(), count)]) for count in (128, 384)
    )
    assert torch.equal(many[:128], few)
