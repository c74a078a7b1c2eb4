import pytest
import torch
from PIL import Image

from lightning_saliency.rendering.pixels import fit_cell, from_pillow, resized, to_bytes, to_pillow


def noise(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_bytes_are_rounded_and_not_cut_off() -> None:
    values = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 254.4 / 255, 254.6 / 255, 1.0])
    assert to_bytes(values).tolist() == [0, 0, 1, 254, 255, 255]
    assert to_bytes(torch.tensor([-1.0, 2.0, float("nan")])).tolist() == [0, 255, 0]


def test_to_bytes_rounds_to_fewer_steps() -> None:
    values = torch.linspace(0, 1, 1001)
    rounded = to_bytes(values, 64)
    assert len(rounded.unique()) == 64
    assert rounded.unique()[[0, 1, 2, -1]].tolist() == [0, 4, 8, 255]
    assert (rounded / 255 - values).abs().max() <= 0.5 / 63 + 0.5 / 255


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 3, 5, 7), (1, 3, 1, 1), (2, 3, 0, 4)])
def test_the_colors_of_a_pixel_lie_together(shape: tuple[int, ...]) -> None:
    for picture in (noise(*shape), torch.rand(shape, generator=torch.Generator().manual_seed(0))):
        pixels = to_bytes(picture)
        assert pixels.shape == shape
        assert pixels.movedim(-3, -1).is_contiguous()
    assert torch.equal(to_bytes(noise(*shape)), noise(*shape))


def test_bytes_leave_the_picture_alone() -> None:
    picture = torch.tensor([[[0.4, float("nan")]]] * 3, requires_grad=True)
    before = picture.detach().clone()
    assert to_bytes(picture).tolist() == [[[102, 0]]] * 3
    torch.testing.assert_close(picture.detach(), before, rtol=0, atol=0, equal_nan=True)


def test_there_and_back() -> None:
    assert torch.equal(from_pillow(to_pillow(noise(3, 4, 6))), noise(3, 4, 6))


def test_reducing_averages_what_falls_together() -> None:
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(1, 3, 64, 64)
    small = resized(board, (16, 16)).float() / 255
    assert small.shape == (1, 3, 16, 16)
    # A filter that passes pixels over would leave black and white.
    assert float((small - 0.5).abs().max()) < 0.1


@pytest.mark.parametrize("size", [(6, 9), (8, 10), (2, 4), (12, 3), (2, 3)])
def test_enlarging_takes_the_nearest_pixel(size: tuple[int, int]) -> None:
    small = noise(2, 3, 2, 3)
    large = resized(small, size)
    for row in range(size[0]):
        for column in range(size[1]):
            nearest = int((row + 0.5) * 2 / size[0]), int((column + 0.5) * 3 / size[1])
            assert torch.equal(large[:, :, row, column], small[:, :, nearest[0], nearest[1]])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((64, 64), (49, 49)),
        ((224, 224), (64, 64)),
        ((300, 20), (64, 4)),
        ((64, 64), (1, 1)),
        ((5, 5), (64, 3)),
    ],
)
def test_reducing_is_that_of_pillow(before: tuple[int, int], after: tuple[int, int]) -> None:
    pictures = noise(2, 3, *before)
    for picture, small in zip(pictures, resized(pictures, after), strict=True):
        pillow = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
        expected = from_pillow(pillow.resize(after[::-1], Image.Resampling.BILINEAR))
        assert int((small.int() - expected.int()).abs().max()) <= 1
        assert torch.equal(from_pillow(to_pillow(picture, after)), small)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (192, 192)),
        ((28, 28), (196, 196)),
        ((32, 16), (192, 96)),
        ((1, 1), (192, 192)),
        ((100, 80), (200, 160)),
        ((128, 128), (256, 256)),
        ((130, 130), (130, 130)),
        ((192, 192), (192, 192)),
        ((224, 224), (224, 224)),
        ((512, 512), (256, 256)),
        ((300, 1200), (64, 256)),
        ((1, 4000), (1, 256)),
    ],
)
def test_sizes_of_cells(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit_cell(size, 192, 256) == expected
