import pytest
import torch
from torch import Tensor

from lightning_saliency.errors import InputError, LayerError
from lightning_saliency.network.grid import find_grid, fold


def tokens(grid: tuple[int, int], extra: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Return a picture (2, K, h, w) and the same as tokens, after ``extra`` others."""
    picture = torch.randn(2, channels, *grid)
    # By hand, one token after the other, row by row.
    patches = [picture[:, :, y, x] for y in range(grid[0]) for x in range(grid[1])]
    others = [torch.full((2, channels), torch.nan)] * extra
    return picture, torch.stack(others + patches, dim=1)


@pytest.mark.parametrize("extra", [0, 1, 2, 5])
@pytest.mark.parametrize(
    ("grid", "image"),
    [
        ((14, 14), (224, 224)),
        ((7, 7), (224, 224)),
        ((16, 16), (224, 224)),
        ((37, 37), (518, 518)),
        ((24, 12), (384, 192)),
        ((6, 20), (96, 320)),
        ((13, 17), (208, 272)),
    ],
)
def test_tokens_are_folded_back(grid: tuple[int, int], image: tuple[int, int], extra: int) -> None:
    picture, sequence = tokens(grid, extra)
    assert find_grid(sequence, image) == grid
    assert torch.equal(fold(sequence, image), picture)
    assert torch.equal(fold(sequence, image, "tokens"), picture)


@pytest.mark.parametrize(
    ("shape", "image", "first"),
    [
        ((2, 512, 7, 7), (224, 224), True),
        ((2, 7, 7, 768), (224, 224), False),
        ((2, 64, 56, 56), (224, 224), True),
        ((2, 56, 56, 96), (224, 224), False),
        ((2, 56, 56, 64), (224, 224), False),
        ((2, 64, 64, 64), (224, 224), True),
        ((2, 64, 4, 2), (100, 60), True),
        ((2, 8, 8, 10), (16, 20), True),
        ((2, 12, 20, 96), (384, 640), False),
        ((2, 1000, 1, 1), (224, 224), True),
        ((2, 3, 224, 224), (224, 224), True),
        ((2, 512, 1, 40), (32, 1280), True),
    ],
)
def test_layout_of_pictures_is_recognised(
    shape: tuple[int, int, int, int], image: tuple[int, int], first: bool
) -> None:
    output = torch.randn(shape)
    picture = output if first else output.permute(0, 3, 1, 2)
    assert torch.equal(fold(output, image), picture)
    assert find_grid(output, image) == tuple(picture.shape[2:])


def test_layout_can_be_given() -> None:
    output = torch.randn(2, 4, 5, 6)
    assert torch.equal(fold(output, (16, 16), "channels_first"), output)
    assert torch.equal(fold(output, (16, 16), "channels_last"), output.permute(0, 3, 1, 2))
    own = fold(output, (16, 16), lambda x: x.mean(1, keepdim=True))
    assert torch.equal(own, output.mean(1, keepdim=True))


@pytest.mark.parametrize("shape", [(2, 5), (2,), (2, 3, 4, 5, 6), (2, 23, 8), (2, 0, 8)])
def test_no_grid(shape: tuple[int, ...]) -> None:
    output = torch.zeros(shape)
    assert find_grid(output, (32, 32)) is None
    with pytest.raises(LayerError, match=r"\(N, K, h, w\).*32 x 32.*has shape"):
        fold(output, (32, 32))


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
