"""The end of a search for masks: what is kept, and what is grown."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import make_images, make_model
from torch import Tensor
from torch.optim import Adam

from lightning_saliency.attribution.extremal_perturbation import ExtremalPerturbation
from lightning_saliency.attribution.mask_search import search as search_module
from lightning_saliency.attribution.mask_search.objective import PictureRewards
from lightning_saliency.attribution.mask_search.refinement import BestGrids, refine_masks
from lightning_saliency.attribution.mask_search.search import MaskSearch
from lightning_saliency.image.exact_area import exact_area

AREAS = (0.1, 0.3)


def test_the_best_of_each_mask_is_kept() -> None:
    grids = [torch.full((3, 2, 2), float(i)) for i in range(4)]
    best = BestGrids(grids[0])
    assert torch.equal(best.grid, grids[0])
    for grid, rewards in zip(grids[1:], ([5.0, 1, 2], [4.0, 3, 2], [4.5, 2, 7]), strict=True):
        best.see(grid, torch.tensor(rewards))
    assert best.grid[:, 0, 0].tolist() == [1.0, 2.0, 3.0]


def test_kept_grids_do_not_move_with_the_search() -> None:
    grid = torch.zeros(1, 2, 2, requires_grad=True)
    best = BestGrids(grid)
    best.see(grid, torch.ones(1))
    with torch.no_grad():
        grid.fill_(9)
    assert not best.grid.any()
    assert not best.grid.requires_grad


def test_a_search_keeps_the_best_of_its_last_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = make_model(dtype=torch.float64).eval(), make_images(3, dtype=torch.float64)
    method = ExtremalPerturbation((0.1,), max_iter=11, jitter=False)
    search, rewards = method._search(images), method._rewards(model, images, 2)
    # So large a step that the last one is not the best for all images.
    config = replace(search.config, optimizer=lambda grids: Adam(grids, lr=0.8), last_rate=1.0)
    search = replace(search, config=config)
    given: list[Tensor] = []

    def keep(search: MaskSearch, grids: list[Tensor], rewards: PictureRewards) -> Tensor:
        given.extend(grids)
        return refine_masks(search, grids, rewards)

    monkeypatch.setattr(search_module, "refine_masks", keep)
    _, history = search.run(rewards)
    last = history[:, 0, 0, 8:]
    assert (last.argmax(1) < 2).any()
    for n, (at, reward) in enumerate(zip(last.argmax(1).tolist(), last.amax(1), strict=True)):
        masks, *_ = search.area_constraint.masks(given[1], 8 + at)
        its = rewards.evaluate(search.pictures(masks[:, None]))[0][n]
        torch.testing.assert_close(its, reward)


def judge_all(grids: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the rewards (2, 2) of the masks made of each of some grids, and of the last masks."""
    model, images = make_model(dtype=torch.float64).eval(), make_images(2, dtype=torch.float64)
    method = ExtremalPerturbation(AREAS)
    search, rewards = method._search(images), method._rewards(model, images, 1)
    areas = torch.tensor(AREAS * 2, dtype=torch.float64)

    def judge(masks: Tensor) -> Tensor:
        return rewards.evaluate(search.pictures(masks))[0].reshape(2, 2)

    alone = [exact_area(search.smooth_mask(g), areas, 250).unflatten(0, (2, 2)) for g in grids]
    return torch.stack([judge(m) for m in alone]), judge(refine_masks(search, grids, rewards))


def test_last_masks_are_the_best_of_all_that_are_given() -> None:
    generator = torch.Generator().manual_seed(2)
    grids = [
        torch.rand(4, 16, 20, generator=generator, dtype=torch.float64).requires_grad_(False)
        for _ in range(4)
    ]
    alone, last = judge_all(grids)
    # The smaller area is not grown; the larger one may be.
    torch.testing.assert_close(last[:, 0], alone[..., 0].amax(0))
    assert len(set(alone[..., 0].argmax(0).tolist())) > 1
    assert (last[:, 1] >= alone[..., 1].amax(0) - 1e-9).all()


def test_only_masks_that_do_hardly_better_than_smaller_ones_are_grown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, images = make_model(dtype=torch.float64).eval(), make_images(6, dtype=torch.float64)
    method = ExtremalPerturbation(AREAS)
    classes = torch.tensor([0, 1, 2, 0, 1, 2])
    search, rewards = method._search(images), method._rewards(model, images, classes)
    generator = torch.Generator().manual_seed(3)
    grid = torch.rand(12, 16, 20, generator=generator, dtype=torch.float64)
    areas = torch.tensor(AREAS * 6, dtype=torch.float64)
    alone = exact_area(search.smooth_mask(grid), areas, 250).unflatten(0, (6, 2))
    before = rewards.evaluate(search.pictures(alone))[0].reshape(6, 2)
    missed = before[:, 1] < before[:, 0] + 0.02 * before[:, 0].abs()
    assert 0 < missed.sum() < 6
    shown: list[int] = []
    with_slopes = PictureRewards.with_slopes

    def counted(self: PictureRewards, games: list[Tensor], *args: Any) -> Any:
        shown.append(len(games[0]))
        return with_slopes(self, games, *args)

    monkeypatch.setattr(PictureRewards, "with_slopes", counted)
    masks = refine_masks(search, [grid], rewards)
    assert shown == [int(missed.sum())] * 8
    changed = (masks != alone).flatten(2).any(2)
    assert not changed[:, 0].any()
    assert not changed[~missed].any()
    assert changed[missed, 1].any()
    # Each is judged for its own image and class.
    last = rewards.evaluate(search.pictures(masks))[0].reshape(6, 2)
    assert (last >= before - 1e-9).all()
    assert (last[missed, 1] > before[missed, 1]).sum() >= changed[missed, 1].sum()
