import pytest
import torch
from torch.nn.functional import avg_pool2d

from lightning_saliency.errors import InputError
from lightning_saliency.image.saliency_map import resize

MODES = ("bilinear", "bicubic", "nearest", "area")


def test_bilinear_by_hand() -> None:
    # Four pixels lie at 1/4 and 3/4 of the two: half of them outside their centres, held there.
    row = torch.tensor([[[[0.0, 1.0]]]])
    assert resize(row, (1, 4)).flatten().tolist() == [0, 0.25, 0.75, 1]


def test_nearest_by_hand() -> None:
    row = torch.tensor([[[[0.0, 1.0]]]])
    assert resize(row, (1, 4), "nearest").flatten().tolist() == [0, 0, 1, 1]


def test_area_is_the_mean_of_the_pixels_that_fall_together() -> None:
    image = torch.randn(2, 3, 8, 12)
    torch.testing.assert_close(resize(image, (4, 4), "area"), avg_pool2d(image, (2, 3)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(3, 11), (16, 5), (1, 1)])
def test_constant_stays_constant(mode: str, size: tuple[int, int]) -> None:
    resized = resize(torch.full((2, 1, 7, 9), 0.3), size, mode)
    assert resized.shape == (2, 1, *size)
    torch.testing.assert_close(resized, torch.full((2, 1, *size), 0.3))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtype_is_kept(mode: str, dtype: torch.dtype) -> None:
    assert resize(torch.rand(1, 1, 4, 4).to(dtype), (6, 6), mode).dtype == dtype


@pytest.mark.parametrize("mode", MODES)
def test_same_size_is_the_same_tensor(mode: str) -> None:
    image = torch.rand(1, 1, 4, 5)
    assert resize(image, (4, 5), mode) is image
    assert resize(image, torch.Size([4, 5]), mode) is image


@pytest.mark.parametrize("mode", MODES)
def test_mirrored_images_stay_mirrored(mode: str) -> None:
    image = torch.randn(1, 1, 6, 9, dtype=torch.float64)
    if mode == "nearest":
        # Where two pixels are equally near, the one on the left is taken.
        assert torch.equal(
            resize(image, (12, 18), mode).flip(3), resize(image.flip(3), (12, 18), mode)
        )
        return
    there = resize(image, (4, 15), mode).flip(3)
    torch.testing.assert_close(there, resize(image.flip(3), (4, 15), mode))


def test_unknown_mode() -> None:
    with pytest.raises(InputError, match=r"'bilinear', 'bicubic', 'nearest' or 'area'.*'cubic'"):
        resize(torch.rand(1, 1, 4, 4), (4, 4), "cubic")
