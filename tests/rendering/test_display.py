import pytest
import torch

from lightning_saliency.errors import InputError
from lightning_saliency.rendering import displayable


def uniform(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_an_image_in_the_unit_range_is_left_as_it_is() -> None:
    image = 0.2 + 0.5 * uniform(2, 3, 4, 5)
    assert torch.equal(displayable(image), image)


def test_mean_and_std_are_undone() -> None:
    image = uniform(2, 3, 4, 5)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    factor = torch.tensor(std).view(1, 3, 1, 1)
    normalized = (image - torch.tensor(mean).view(1, 3, 1, 1)) / factor
    torch.testing.assert_close(displayable(normalized, mean, std), image)


def test_one_value_stands_for_all_channels() -> None:
    image = uniform(1, 3, 4, 4)
    torch.testing.assert_close(displayable((image - 0.5) / 0.5, [0.5], [0.5]), image)


def test_another_range_is_scaled_over_the_whole_batch() -> None:
    image = torch.tensor([-2.0, 0.0, 1.0, 6.0]).view(2, 1, 1, 2)
    shown = displayable(image)
    assert shown[:, 0].flatten().tolist() == pytest.approx([0, 0.25, 0.375, 1])


def test_a_little_outside_is_clipped_and_not_scaled() -> None:
    image = torch.tensor([-0.02, 0.5, 1.03]).view(1, 1, 1, 3)
    assert displayable(image)[0, 0, 0].tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (1, [0.1, 0.1, 0.1]),
        (2, [0.15, 0.15, 0.15]),
        (3, [0.1, 0.2, 0.3]),
        (4, [0.1, 0.2, 0.3]),
        (5, [0.3, 0.3, 0.3]),
    ],
)
def test_colors_of_any_number_of_channels(channels: int, expected: list[float]) -> None:
    image = torch.arange(1, channels + 1).view(1, channels, 1, 1) / 10
    assert displayable(image).flatten().tolist() == pytest.approx(expected)


def test_bytes_are_taken_as_0_to_255() -> None:
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    assert displayable(image)[0, 0, 0].tolist() == pytest.approx([0, 0.2, 1])


def test_pixels_that_are_not_finite_are_black_and_change_no_other() -> None:
    image = torch.tensor([0.0, 4.0, float("nan"), float("inf"), 2.0]).view(1, 1, 1, 5)
    for shift in (0, 3, -9):
        assert displayable(image + shift)[0, 0, 0].tolist() == [0, 1, 0, 0, 0.5]
    assert not displayable(torch.full((1, 3, 2, 2), float("nan"))).any()


@pytest.mark.parametrize("value", [0.0, 0.3, 5.0, -1e38, 3e38])
def test_a_constant_image_is_a_picture(value: float) -> None:
    shown = displayable(torch.full((1, 3, 2, 2), value))
    assert shown.isfinite().all()
    assert float(shown.min()) >= 0
    assert float(shown.max()) <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_any_dtype_gives_float32(dtype: torch.dtype) -> None:
    shown = displayable(torch.ones(1, 1, 2, 2, dtype=dtype))
    assert shown.dtype == torch.float32
    assert bool((shown == 1).all())


def test_the_input_is_not_changed_and_no_gradient_is_kept() -> None:
    image = (5 * uniform(1, 3, 4, 4)).requires_grad_()
    before = image.detach().clone()
    shown = displayable(image, [0.5], [0.5])
    assert torch.equal(image.detach(), before)
    assert not shown.requires_grad
    shown.zero_()
    assert torch.equal(image.detach(), before)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.1, 0.2], None, "mean to hold 1 or 3"),
        (None, [1.0, 1.0], "std to hold 1 or 3"),
        (None, [0.0], "std not 0"),
        ([float("nan")], None, "finite"),
    ],
)
def test_wrong_mean_or_std(mean: list[float] | None, std: list[float] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        displayable(torch.zeros(1, 3, 2, 2), mean, std)


@pytest.mark.parametrize("shape", [(3, 4, 4), (0, 3, 4, 4)])
def test_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\(N, C, H, W\)"):
        displayable(torch.zeros(shape))
