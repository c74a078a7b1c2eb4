"""The coarse similarity is what its definition says, whatever the size of the maps."""

from __future__ import annotations

import naive_measures
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.metrics import COMPARED, MEASURES, coarse
from lightning_saliency.metrics.map_statistics import canonical


def noisy(evidence: Tensor, side: int, seed: int, noise: float = 1.0) -> Tensor:
    smooth = F.interpolate(evidence, size=(side, side), mode="bicubic")
    return smooth + noise * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(seed))


def evidence(seed: int, count: int = 24) -> Tensor:
    return torch.randn(count, 1, 7, 7, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(14, 14), (28, 28), (33, 20), (15, 64), (13, 40), (64, 64)])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_equal_to_the_definition(size: tuple[int, int], noise: float) -> None:
    generator = torch.Generator().manual_seed(sum(size))
    shared = F.interpolate(evidence(0, 4), size=size, mode="bicubic")
    first, second = (
        shared + noise * torch.randn(shared.shape, generator=generator) for _ in range(2)
    )
    # Flat parts, and ties.
    first[1, :, :8], second[2] = 0, second[2].round()
    found = coarse(first, second)
    pairs = zip(first[:, 0].double().numpy(), second[:, 0].double().numpy(), strict=True)
    np.testing.assert_allclose(
        found, [naive_measures.coarse(a, b) for a, b in pairs], rtol=2e-6, atol=2e-7
    )


def test_the_size_of_the_maps_does_not_matter() -> None:
    same, changed, other = {}, {}, {}
    base, new = evidence(1, 48), evidence(2, 48)
    mixed = 0.7**0.5 * base + 0.3**0.5 * new
    for side in (28, 64, 112, 224, 512):
        reference = canonical(noisy(base, side, 10 + side))
        for found, current in ((same, base), (changed, mixed), (other, new)):
            maps = canonical(noisy(current, side, 11 + side))
            found[side] = float(coarse(maps, reference).nanmean())
    assert min(same.values()) >= 0.97
    assert max(changed.values()) - min(changed.values()) <= 0.06
    assert max(map(abs, other.values())) <= 0.1
    # The plain rank correlation of pixels is not so.
    plain = [
        float(
            MEASURES["spearman"](
                canonical(noisy(base, side, 1)), canonical(noisy(base, side, 2))
            ).mean()
        )
        for side in (28, 512)
    ]
    assert plain[1] - plain[0] > 0.4


def test_nothing_is_said_of_noise() -> None:
    noise = torch.randn(50, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert coarse(noise, noise.roll(1, 0)).isnan().all()


def test_equal_maps_are_equal_and_degenerate_ones_have_no_number() -> None:
    maps = noisy(evidence(3, 3), 40, 4)
    assert coarse(maps, maps.clone()).tolist() == [1, 1, 1]
    maps[1] = 0.3
    assert coarse(maps, maps.roll(1, 0)).isnan().tolist() == [False, True, True]


def test_it_is_compared_but_watched_by_no_alarm_unless_named() -> None:
    assert list(COMPARED) == [*MEASURES, "coarse"]
    assert not coarse.is_similarity
    assert coarse.bounds == (-1, 1)
