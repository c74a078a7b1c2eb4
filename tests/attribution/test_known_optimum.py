"""Extremal perturbation on scores for which the best masks are known."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch
from known_optimum import SCORES, KnownScore, cut, pairs, picture
from torch import Tensor

from lightning_saliency.attribution import ExtremalPerturbation

BY_NAME = {score.name: score for score in SCORES}


def reached(score: KnownScore, *areas: float, **settings: Any) -> list[float]:
    """Return the share of the optimum that the mask of each area reaches, at exactly its area."""
    reward = "simple" if score.rival is None else "contrastive"
    method = ExtremalPerturbation(
        areas, "fade", variant=score.variant, reward_func=reward, **settings
    )
    masks = method.masks(score.model(), picture(), 1).masks[0]
    return [score.share(cut(mask, area), area) for mask, area in zip(masks, areas, strict=True)]


def random_masks(area: float) -> Tensor:
    noise = torch.rand(500, *picture().shape[2:], generator=torch.Generator().manual_seed(0))
    # Those of a wide kernel are in one piece, and more than noise.
    wide = torch.nn.functional.avg_pool2d(noise[:, None], 9, 1, 4)[:, 0]
    return torch.cat([cut(noise, area), cut(wide, area)])


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.name)
def test_no_mask_is_better_than_the_best(score: KnownScore) -> None:
    for of, area in pairs():
        if of is score:
            masks = random_masks(area)
            optimum = score.optimum(score, round(area * masks[0].numel()))
            assert score.reward(masks).max() <= optimum + 1e-4


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("AND, product", 0.1),
        ("two parts", 0.05),
        ("AND, min", 0.1),
        ("2 px bar", 0.05),
        ("ring", 0.2),
        ("delete, OR", 0.1),
    ],
)
def test_finds_parts_that_are_thin_or_apart(name: str, area: float) -> None:
    (share,) = reached(BY_NAME[name], area)
    assert 0.9 <= share <= 1 + 1e-5


def test_reaches_most_of_the_optimum_on_average() -> None:
    assert len(pairs()) == 62
    areas = {score: [area for of, area in pairs() if of is score] for score in SCORES}
    shares = [share for score, some in areas.items() for share in reached(score, *some)]
    assert statistics.mean(shares) >= 0.96
    assert min(shares) >= 0.4
    assert sum(share < 0.9 for share in shares) <= 7


def test_more_rounds_find_more_where_something_is_left() -> None:
    score = BY_NAME["2 px bar"]
    (without,), (few,) = (reached(score, 0.02, rounds=rounds) for rounds in (0, 8))
    assert without < 0.6
    assert few > 0.8
