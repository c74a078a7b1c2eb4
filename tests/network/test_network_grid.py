from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_saliency.errors import InputError, LayerError
from lightning_saliency.network.grid import (
    TokenGrid,
    fold,
    grid_by_proportions,
)


def tokens(grid: tuple[int, int], extra: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Return a picture (2, K, h, w) and the same as tokens, after ``extra`` others."""
    picture = torch.randn(2, channels, *grid)
    # By hand, one token after the other, row by row.
    patches = [picture[:, :, y, x] for y in range(grid[0]) for x in range(grid[1])]
    others = [torch.full((2, channels), torch.nan)] * extra
    return picture, torch.stack(others + patches, dim=1)


GRIDS = [
    ((14, 14), (224, 224)),
    ((7, 7), (224, 224)),
    ((37, 37), (518, 518)),
    ((24, 12), (384, 192)),
    ((6, 20), (96, 320)),
    ((13, 17), (208, 272)),
]


@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 0), (2, 3), (0, 8), (100, 1)])
@pytest.mark.parametrize("grid", [grid for grid, _ in GRIDS])
def test_tokens_of_a_known_grid(grid: tuple[int, int], before: int, after: int) -> None:
    picture, sequence = tokens(grid, before)
    sequence = torch.cat([sequence, torch.full((2, after, 3), torch.nan)], dim=1)
    known = TokenGrid(*grid, before, after)
    assert torch.equal(fold(sequence, (1, 1), known), picture)
    first = replace(known, order="NKT")
    assert torch.equal(fold(sequence.transpose(1, 2), (1, 1), first), picture)
    tokens_first = replace(known, order="TNK")
    assert torch.equal(fold(sequence.transpose(0, 1), (1, 1), tokens_first), picture)


def test_grid_of_another_size_is_refused() -> None:
    with pytest.raises(
        LayerError, match=r"17 tokens, 4 x 4 tokens after 1 other, got.*\(2, 21, 3\)"
    ):
        fold(torch.zeros(2, 21, 3), (32, 32), TokenGrid(4, 4, before=1))


@pytest.mark.parametrize(("grid", "image"), GRIDS)
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_tokens_by_proportions(grid: tuple[int, int], image: tuple[int, int], extra: int) -> None:
    picture, sequence = tokens(grid, extra)
    if grid_by_proportions(sequence, image) is None:
        # Several would do; none of them is taken.
        with pytest.raises(LayerError, match="one grid of the image's proportions"):
            fold(sequence, image, "tokens")
    else:
        assert torch.equal(fold(sequence, image, "tokens"), picture)


def test_two_grids_of_about_the_same_proportions_are_none() -> None:
    # DINOv2's with four registers at 56 x 84: 4 x 6 and five others, or 4 x 7 and one.
    assert grid_by_proportions(torch.zeros(2, 29, 8), (56, 84)) is None
    assert grid_by_proportions(torch.zeros(2, 197, 8), (224, 224)) == TokenGrid(14, 14, before=1)


def test_layout_can_be_given() -> None:
    output = torch.randn(2, 4, 5, 6)
    assert torch.equal(fold(output, (16, 16), "channels_first"), output)
    assert torch.equal(fold(output, (16, 16), "channels_last"), output.permute(0, 3, 1, 2))
    first, last = "channels_first_transposed", "channels_last_transposed"
    assert torch.equal(fold(output, (16, 16), first), output.transpose(2, 3))
    assert torch.equal(fold(output, (16, 16), last), output.permute(0, 3, 2, 1))
    own = fold(output, (16, 16), lambda x: x.mean(1, keepdim=True))
    assert torch.equal(own, output.mean(1, keepdim=True))


@pytest.mark.parametrize("shape", [(2, 5), (2,), (2, 3, 4, 5, 6), (2, 23, 8), (2, 0, 8)])
def test_no_grid(shape: tuple[int, ...]) -> None:
    output = torch.zeros(shape)
    assert grid_by_proportions(output, (32, 32)) is None
    with pytest.raises(LayerError, match=r"\(N, K, h, w\).*32 x 32.*has shape"):
        fold(output, (32, 32), "tokens")


def test_layout_that_the_output_does_not_have() -> None:
    with pytest.raises(LayerError, match=r"has shape \(2, 16, 8\)"):
        fold(torch.zeros(2, 16, 8), (32, 32), "channels_first")
    with pytest.raises(LayerError, match=r"has shape \(2, 8, 4, 4\)"):
        fold(torch.zeros(2, 8, 4, 4), (32, 32), "tokens")


def test_unknown_layout() -> None:
    with pytest.raises(InputError, match=r"channels_last.*'nchw'"):
        fold(torch.zeros(2, 8, 4, 4), (32, 32), "nchw")


@pytest.mark.parametrize("returned", [torch.zeros(2, 3), torch.zeros(1, 3, 4, 4), "text"])
def test_layout_callable_is_checked(returned: object) -> None:
    with pytest.raises(LayerError, match=r"layout callable to return \(2, K, h, w\), got"):
        fold(torch.zeros(2, 16, 8), (32, 32), lambda _: returned)
