"""Where a search for masks begins."""

import pytest
import torch
from torch import Tensor

from lightning_saliency.attribution.mask_search.initialization import coarse_masks, initial_grids

float64 = torch.float64


@pytest.mark.parametrize("size", [(64, 64), (31, 80), (8, 8), (5, 3)])
def test_coarse_masks_have_one_area_and_cover_the_image(size: tuple[int, int]) -> None:
    masks = coarse_masks(size, torch.empty(0))
    assert masks.shape == (16, *size)
    torch.testing.assert_close(masks.mean((1, 2)), torch.full((16,), 0.2), rtol=0, atol=1e-5)
    assert masks.amax(0).min() > 0.5


def test_coarse_masks_lie_in_row_order_around_their_middles() -> None:
    masks = coarse_masks((64, 64), torch.empty(0, dtype=float64))
    assert masks.dtype == float64
    for k, mask in enumerate(masks):
        row, column = divmod(k, 4)
        middle = (row * 16 + 8, column * 16 + 8)
        assert mask[middle] == mask.max() > 0.9
    # The second row's second disc is cut off nowhere: as wide as it is high, of radius sqrt(A/pi).
    on = masks[5] > 0.5
    radius = 64 * (0.2 / torch.pi) ** 0.5
    assert on.any(0).sum() == on.any(1).sum() == pytest.approx(2 * radius, abs=2)


def halves(size: int = 8) -> Tensor:
    left = torch.zeros(size, size, dtype=float64)
    left[:, : size // 2] = 1
    return torch.stack([left, 1 - left])


def test_grids_lean_towards_what_is_rewarded() -> None:
    rewards = torch.tensor([[3.0, 1.0], [-2.0, 5.0]], dtype=float64)
    grids = initial_grids([rewards], halves(), 2)
    assert grids.shape == (2, 4, 4)
    wanted = torch.tensor([0.8, 0.8, 0.2, 0.2], dtype=float64).expand(4, 4)
    torch.testing.assert_close(grids[0], wanted)
    torch.testing.assert_close(grids[1], 1 - wanted)


def test_each_mask_counts_by_how_far_its_reward_is_from_the_mean() -> None:
    masks = torch.eye(4, dtype=float64).reshape(4, 2, 2)
    rewards = torch.tensor([[0.0, 1.0, 4.0, 3.0]], dtype=float64)
    wanted = 0.2 + 0.6 * rewards.reshape(1, 2, 2) / 4
    torch.testing.assert_close(initial_grids([rewards], masks, 1), wanted)


def test_the_scale_of_the_rewards_does_not_matter() -> None:
    rewards = torch.rand(3, 16, dtype=float64)
    masks = coarse_masks((20, 16), rewards)
    wanted = initial_grids([rewards], masks, 3)
    assert wanted.shape == (3, 7, 6)
    torch.testing.assert_close(initial_grids([1e6 * rewards - 1e3], masks, 3), wanted)


def test_rewards_of_several_kinds_count_alike() -> None:
    masks = halves()
    kept = torch.tensor([[1.0, 0.0]], dtype=float64)
    # The second kind, of another scale, says the opposite, or nothing.
    against = initial_grids([kept, -1e4 * kept], masks, 2)
    torch.testing.assert_close(against, torch.full((1, 4, 4), 0.5, dtype=float64))
    half = initial_grids([kept, 0 * kept], masks, 2)
    wanted = torch.tensor([0.65, 0.65, 0.35, 0.35], dtype=float64).expand(1, 4, 4)
    torch.testing.assert_close(half, wanted)


def test_equal_rewards_lean_nowhere() -> None:
    grids = initial_grids([torch.full((1, 2), 3.0)], halves().float(), 2)
    assert torch.equal(grids, torch.full((1, 4, 4), 0.5))
