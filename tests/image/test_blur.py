import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lightning_saliency.errors import InputError
from lightning_saliency.image.blur import gaussian_blur

# scipy's names for what lies outside the image.
SCIPY_MODES = {"replicate": "nearest", "constant": "constant"}


def random_image(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 13, 9, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("padding", SCIPY_MODES)
@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5, 9.0])
def test_equals_scipy(padding: str, sigma: float) -> None:
    image = random_image()
    wanted = [
        [
            gaussian_filter(
                channel.numpy(),
                sigma,
                mode=SCIPY_MODES[padding],
                radius=math.ceil(3 * sigma),
            )
            for channel in one
        ]
        for one in image
    ]
    blurred = gaussian_blur(image, sigma, padding)
    np.testing.assert_allclose(blurred.numpy(), np.array(wanted), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtype_is_kept_and_a_constant_stays_constant(dtype: torch.dtype) -> None:
    image = torch.full((1, 2, 8, 8), 0.3, dtype=dtype)
    blurred = gaussian_blur(image, 2.0)
    assert blurred.dtype == dtype
    torch.testing.assert_close(blurred, image)


def test_zeros_outside_darken_the_edges_alone() -> None:
    blurred = gaussian_blur(torch.ones(1, 1, 21, 21, dtype=torch.float64), 1.0, "constant")
    assert blurred[0, 0, 10, 10].item() == pytest.approx(1)
    assert blurred[0, 0, 0, 0].item() < 0.6


def test_one_pixel_becomes_a_gaussian() -> None:
    image = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    image[0, 0, 15, 15] = 1
    blurred = gaussian_blur(image, 2.0)[0, 0]
    assert blurred.sum().item() == pytest.approx(1)
    offsets = torch.arange(-15.0, 16.0, dtype=torch.float64)
    # The kernel ends at 3 sigma, which takes a little from its standard deviation.
    deviation = (blurred.sum(0) * offsets**2).sum().sqrt().item()
    assert deviation == pytest.approx(2.0, rel=0.02)
    torch.testing.assert_close(blurred, blurred.T)


def test_no_blur() -> None:
    image = random_image()
    assert gaussian_blur(image, 0) is image


def test_gradient_passes() -> None:
    image = random_image().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: gaussian_blur(x, 1.5), image[:1, :1])


@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf])
def test_bad_sigma(sigma: float) -> None:
    with pytest.raises(InputError, match="sigma >= 0 pixels, got"):
        gaussian_blur(random_image(), sigma)


def test_bad_padding() -> None:
    with pytest.raises(InputError, match="'replicate' or 'constant', got 'reflect'"):
        gaussian_blur(random_image(), 1.0, "reflect")
