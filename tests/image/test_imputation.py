"""Missing pixels are the means of their neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.image.imputation import fill_in


def picture(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, height + 4, width + 4, generator=generator)
    return 2 * F.avg_pool2d(noise, 5, 1) + 0.7


def scattered(count: int, height: int, width: int, share: float) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 1, height, width, generator=generator) < share


def hole(count: int, height: int, width: int) -> Tensor:
    """Known is only a strip at the left edge."""
    known = torch.zeros(count, 1, height, width, dtype=torch.bool)
    known[..., : max(1, width // 10)] = True
    return known


def by_dense_system(image: Tensor, known: Tensor) -> Tensor:
    """Write down every equation and solve them, float64."""
    channels, height, width = image.shape
    places = [(r, c) for r in range(height) for c in range(width) if not known[0, r, c]]
    number = {place: i for i, place in enumerate(places)}
    left, right = np.zeros((len(places),) * 2), np.zeros((len(places), channels))
    for (row, column), i in number.items():
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                there = row + down, column + across
                inside = 0 <= there[0] < height and 0 <= there[1] < width
                if (down, across) == (0, 0) or not inside:
                    continue
                weight = 1 / 6 if 0 in (down, across) else 1 / 12
                left[i, i] += weight
                if there in number:
                    left[i, number[there]] -= weight
                else:
                    right[i] += weight * image[:, there[0], there[1]].double().numpy()
    filled = image.double().clone()
    for place, values in zip(places, np.linalg.solve(left, right), strict=True):
        filled[:, place[0], place[1]] = torch.from_numpy(values)
    return filled


@pytest.mark.parametrize("size", [(16, 16), (13, 18), (1, 9), (2, 2), (7, 1)], ids=str)
@pytest.mark.parametrize("kind", ["scattered", "hole"])
def test_equals_the_system_written_out(size: tuple[int, int], kind: str) -> None:
    images = picture(3, *size)
    known = scattered(3, *size, 0.3) if kind == "scattered" else hole(3, *size)
    known[:, :, 0, 0] = True
    filled = fill_in(images, known)
    for image, mask, came in zip(images, known, filled, strict=True):
        wanted = by_dense_system(image, mask)
        torch.testing.assert_close(came.double(), wanted, rtol=0, atol=2e-4)


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_equals_the_published_code(share: float) -> None:
    images = picture(2, 40, 36, seed=4)
    known = torch.cat((scattered(1, 40, 36, share), hole(1, 40, 36)))
    for image, mask, came in zip(images, known, fill_in(images, known), strict=True):
        wanted = NoisyLinearImputer(noise=0.0)(image, mask[0].float())
        torch.testing.assert_close(came, wanted, rtol=0, atol=2e-4)


def test_each_image_has_its_own_mask_and_known_pixels_stay() -> None:
    images = picture(3, 20, 20)
    known = scattered(3, 20, 20, 0.4)
    together = fill_in(images, known)
    alone = torch.cat([fill_in(images[i : i + 1], known[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-4)
    assert torch.equal(together[known.expand_as(images)], images[known.expand_as(images)])


def test_what_was_at_a_missing_pixel_does_not_matter() -> None:
    images, known = picture(1, 20, 20), scattered(1, 20, 20, 0.4)
    spoilt = torch.where(known, images, torch.nan)
    assert torch.equal(fill_in(images, known), fill_in(spoilt, known))


def test_a_ramp_is_continued_and_a_constant_stays() -> None:
    ramp = torch.arange(32.0).expand(1, 1, 24, 32)
    known = torch.ones(1, 1, 24, 32, dtype=torch.bool)
    known[..., 1:-1] = False
    torch.testing.assert_close(fill_in(ramp, known), ramp, rtol=0, atol=1e-2)
    constant = torch.full((1, 1, 24, 32), 7.5)
    torch.testing.assert_close(fill_in(constant, known), constant, rtol=0, atol=1e-5)


def test_large_holes_are_solved_as_exactly_as_small_ones() -> None:
    images, known = picture(1, 160, 160), hole(1, 160, 160)
    single = fill_in(images, known)
    double = fill_in(images.double(), known)
    # Each pixel is the mean of its neighbours: in the inside, the stencil gives 0.
    stencil = torch.tensor([[1.0, 2, 1], [2, -12, 2], [1, 2, 1]], dtype=torch.float64) / 12
    rest = F.conv2d(double[:, :1], stencil[None, None])[..., 20:]
    assert rest.abs().max() < 1e-4
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    images, known = picture(1, 12, 12), scattered(1, 12, 12, 0.5)
    came = fill_in(images.to(dtype), known)
    assert came.dtype == dtype
    torch.testing.assert_close(came.float(), fill_in(images, known), rtol=0.02, atol=0.02)


def test_systems_that_are_solved_sooner_than_others_stay_solved() -> None:
    images = torch.cat((picture(1, 24, 24), torch.full((1, 3, 24, 24), 3.0), picture(1, 24, 24)))
    known = torch.cat((hole(1, 24, 24), hole(1, 24, 24), ~torch.zeros(1, 1, 24, 24).bool()))
    known[2, 0, 3, 3] = False
    for image, mask, came in zip(images, known, fill_in(images, known), strict=True):
        wanted = by_dense_system(image, mask)
        torch.testing.assert_close(came.double(), wanted, rtol=0, atol=2e-4)


def test_nothing_missing() -> None:
    images = picture(1, 8, 8)
    assert torch.equal(fill_in(images, torch.ones(1, 1, 8, 8, dtype=torch.bool)), images)


def test_bad_input() -> None:
    images = picture(2, 8, 8)
    with pytest.raises(InputError, match=r"\(N, 1, H, W\)"):
        fill_in(images, torch.ones(2, 8, 8, dtype=torch.bool))
    known = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    known[1] = False
    with pytest.raises(InputError, match="at least one known pixel"):
        fill_in(images, known)
