import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from lightning_saliency.attribution.rise_estimation.estimators import (
    MaskAverage,
    estimate_maps,
    rank_correlation,
)
from lightning_saliency.image.random_mask import (
    MaskBlock,
    Upsampling,
    balanced_masks,
    independent_masks,
)

centred_or_not = pytest.mark.parametrize("centred", [False, True])
both_designs = pytest.mark.parametrize("design", [independent_masks, balanced_masks])


def blocks_of(design: object, count: int = 512, dtype: torch.dtype = torch.float64) -> list:
    return list(design(Upsampling((16, 20), (7, 7), dtype=dtype), count))


def scores_for(block: MaskBlock, count: int = 3, classes: int = 2) -> Tensor:
    """Return scores that depend on the masks, on one another, and on chance."""
    generator = torch.Generator().manual_seed(int(block.grids.sum() * 7 + block.grids[0, 0].sum()))
    weights = torch.randn(
        count, classes, 16, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    seen = torch.einsum("nkhw,mhw->nkm", weights, block.masks[:, 0].double()) / 20
    noise = torch.randn(seen.shape, dtype=torch.float64, generator=generator)
    return 5 + seen + 0.1 * noise


def naive_mean(blocks: list[MaskBlock], scores: list[Tensor], centred: bool) -> Tensor:
    """Mean over masks of (score - mean score) x (mask - mean mask), pixel by pixel."""
    masks = [mask[0] for block in blocks for mask in block.masks]
    values = torch.cat(scores, -1)
    mean_mask, mean_score = sum(masks) / len(masks), values.mean(-1)
    total = torch.zeros(*values.shape[:2], 16, 20, dtype=torch.float64)
    for i in range(values.shape[0]):
        for k in range(values.shape[1]):
            for m, mask in enumerate(masks):
                if centred:
                    total[i, k] += (values[i, k, m] - mean_score[i, k]) * (mask - mean_mask)
                else:
                    total[i, k] += values[i, k, m] * mask
    return total / len(masks)


@centred_or_not
@both_designs
@pytest.mark.parametrize("halves", [False, True])
def test_mean_is_the_naive_one(design: object, centred: bool, halves: bool) -> None:
    blocks = blocks_of(design, 300)
    scores = [scores_for(block) for block in blocks]
    average = MaskAverage(halves)
    for block, score in zip(blocks, scores, strict=True):
        average.add(score, block)
    assert average.num_blocks == 3
    assert average.num_masks == sum(map(len, blocks))
    torch.testing.assert_close(average.mean(centred), naive_mean(blocks, scores, centred))
    if halves:
        for half in (0, 1):
            wanted = naive_mean(blocks[half::2], scores[half::2], centred)
            torch.testing.assert_close(average.mean(centred, half), wanted)


@both_designs
def test_small_changes_of_a_large_score_survive_in_float32(design: object) -> None:
    exact, rounded = MaskAverage(), MaskAverage()
    for block, other in zip(blocks_of(design), blocks_of(design, dtype=torch.float32), strict=True):
        scores = (5 + 1e-3 * (scores_for(block) - 5)).float()
        exact.add(scores.double(), block)
        rounded.add(scores, other)
    wanted, came = exact.mean(True), rounded.mean(True).double()
    assert (came - wanted).abs().max() < 1e-4 * wanted.abs().max()


@both_designs
@centred_or_not
def test_split_half_is_spearmans(design: object, centred: bool) -> None:
    average = MaskAverage()
    for block in blocks_of(design):
        average.add(scores_for(block), block)
    came = average.split_half(centred)
    assert came.shape == (3, 2)
    for i in range(3):
        for k in range(2):
            wanted = spearmanr(*(average.mean(centred, h)[i, k].flatten() for h in (0, 1)))
            assert float(came[i, k]) == pytest.approx(wanted.statistic, abs=1e-3)


def test_split_half_needs_two_halves() -> None:
    average = MaskAverage()
    (block,) = blocks_of(balanced_masks, 128)
    average.add(scores_for(block), block)
    assert average.split_half(True).isnan().all()


def test_constant_score_has_no_split_half() -> None:
    average = MaskAverage()
    for block in blocks_of(balanced_masks):
        average.add(torch.full((3, 2, len(block)), 0.3).double(), block)
    assert torch.equal(average.mean(True), torch.zeros(3, 2, 16, 20).double())
    assert average.split_half(True).isnan().all()


def test_rank_correlation() -> None:
    x, y = torch.randn(2, 4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = [spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    torch.testing.assert_close(rank_correlation(x, y).tolist(), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(rank_correlation(x, x.exp()), torch.ones(4).double())
    torch.testing.assert_close(rank_correlation(x, -x), -torch.ones(4).double())
    assert rank_correlation(x, torch.ones(4, 50).double()).isnan().all()


# --- the loop over the blocks -----------------------------------------------------------------


def test_all_masks_are_used() -> None:
    blocks = blocks_of(balanced_masks)
    came = estimate_maps(
        blocks, lambda block, _: scores_for(block)[:, :1], torch.arange(3), MaskAverage(), True
    )
    average = MaskAverage()
    for block in blocks:
        average.add(scores_for(block)[:, :1], block)
    assert came.saliency.shape == (3, 1, 16, 20)
    assert torch.equal(came.saliency, average.mean(True))
    assert torch.equal(came.split_half, average.split_half(True)[:, 0])
    assert came.num_masks.tolist() == [512] * 3
    quick = estimate_maps(
        blocks,
        lambda block, _: scores_for(block)[:, :1],
        torch.arange(3),
        MaskAverage(),
        True,
        with_split_half=False,
    )
    assert torch.equal(quick.saliency, came.saliency)
    assert quick.split_half.isnan().all()


def test_each_image_stops_by_itself() -> None:
    # Image 0 has much noise, image 1 none, image 2 some.
    levels = torch.tensor([20.0, 0.0, 1.5], dtype=torch.float64)
    asked: list[list[int]] = []

    def scores(block: MaskBlock, running: Tensor) -> Tensor:
        asked.append(running.tolist())
        clean = torch.einsum("hw,mhw->m", torch.eye(16, 20).double(), block.masks[:, 0])
        generator = torch.Generator().manual_seed(len(asked))
        noise = torch.randn(3, len(block), generator=generator).double()
        return (clean + levels[:, None] * noise)[running][:, None]

    blocks = blocks_of(balanced_masks, 128 * 9)
    together = estimate_maps(blocks, scores, torch.arange(3), MaskAverage(), True, until=0.9)
    assert together.num_masks.tolist()[0] == 128 * 9
    assert together.num_masks.tolist()[1] == 256
    assert 256 < together.num_masks.tolist()[2] < 128 * 9
    assert together.split_half[0] < 0.9 <= together.split_half[1:].min()
    assert asked[:3] == [[0, 1, 2], [0, 1, 2], [0, 2]]
    assert len(asked) == 9
    for i in range(3):
        asked.clear()
        alone = estimate_maps(blocks, scores, torch.tensor([i]), MaskAverage(), True, until=0.9)
        torch.testing.assert_close(alone.saliency[0], together.saliency[i])
        assert alone.num_masks[0] == together.num_masks[i]
    assert len(asked) < 9


def test_no_more_masks_when_all_images_are_done() -> None:
    asked = []

    def scores(block: MaskBlock, running: Tensor) -> Tensor:
        asked.append(len(running))
        return torch.einsum("hw,mhw->m", torch.eye(16, 20).double(), block.masks[:, 0]).expand(
            len(running), 1, -1
        )

    came = estimate_maps(
        blocks_of(balanced_masks, 1280), scores, torch.arange(2), MaskAverage(), True, until=0.9
    )
    assert asked == [2, 2]
    assert came.num_masks.tolist() == [256, 256]
