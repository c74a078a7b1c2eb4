"""Pictures without one of their parts."""

import pytest
import torch

from lightning_saliency.errors import InputError
from lightning_saliency.image.imputation import fill_in
from lightning_saliency.image.parts import CONTENTS, cell_bounds, contents, filled_cells


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(20, 20), (17, 31), (10, 10)])
def test_cells_cover_every_pixel_once(size: tuple[int, int]) -> None:
    covered = torch.zeros(size)
    cells = cell_bounds(size, 5)
    for rows, columns in cells:
        covered[rows, columns] += 1
    assert len(cells) == 25
    assert bool((covered == 1).all())


@pytest.mark.parametrize(("size", "grid"), [((9, 20), 5), ((20, 20), 1), ((20, 20), 0)])
def test_grids_that_do_not_fit(size: tuple[int, int], grid: int) -> None:
    with pytest.raises(InputError, match="grid"):
        cell_bounds(size, grid)


def test_each_cell_is_filled_as_if_it_alone_were_missing() -> None:
    image = images(2, 3, 17, 22)
    filled = filled_cells(image, 4)
    for rows, columns in cell_bounds((17, 22), 4):
        known = torch.ones(2, 1, 17, 22, dtype=torch.bool)
        known[..., rows, columns] = False
        expected = fill_in(image, known)[..., rows, columns]
        assert torch.allclose(filled[..., rows, columns], expected, atol=2e-3)


def test_what_fills_a_cell_does_not_know_what_was_there() -> None:
    image = images(1, 1, 20, 20)
    changed = image.clone()
    changed[..., 4:8, 8:12] = 9.0
    cell = (..., slice(4, 8), slice(8, 12))
    assert torch.equal(filled_cells(image, 5)[cell], filled_cells(changed, 5)[cell])


@pytest.mark.parametrize("size", [(20, 24), (96, 128)])
def test_the_contents_sum_to_the_picture(size: tuple[int, int]) -> None:
    image = images(2, 3, *size).half()
    parts = contents(image)
    assert parts.shape == (len(CONTENTS), *image.shape)
    assert parts.dtype == torch.float32
    assert torch.allclose(parts.sum(0), image.float(), atol=1e-5)


def test_each_content_is_of_its_kind() -> None:
    across = torch.arange(40.0).expand(1, 1, 40, 40)

    def strongest(image: torch.Tensor) -> str:
        return CONTENTS[int(contents(image).square().mean((1, 2, 3, 4)).argmax())]

    assert strongest(torch.full((1, 1, 40, 40), 0.5)) == "level"
    for period, kind in ((3, "fine"), (7, "middle"), (14, "coarse"), (20, "low")):
        assert strongest(torch.sin(2 * torch.pi * across / period)) == kind, period


def test_the_bands_grow_with_the_picture() -> None:
    across = torch.arange(192.0).expand(1, 1, 192, 192)
    parts = contents(torch.sin(2 * torch.pi * across / 12))
    assert CONTENTS[int(parts.square().mean((1, 2, 3, 4)).argmax())] == "fine"
