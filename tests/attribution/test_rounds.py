"""More rounds of a search for masks: which masks have them, and what they end with."""

from typing import Any

import pytest
import torch
from tiny_models import make_images, make_model
from torch import Tensor
from traces import bits

from lightning_saliency.attribution.extremal_perturbation import ExtremalPerturbation
from lightning_saliency.attribution.mask_search.objective import PictureRewards
from lightning_saliency.attribution.mask_search.refinement import evaluate_grid
from lightning_saliency.attribution.mask_search.rounds import search_on

AREAS = (0.1, 0.3)
float64 = torch.float64


def begun(count: int = 3, **settings: Any) -> tuple[Any, PictureRewards, Tensor]:
    """Return a problem, its rewards, and grids that a search could end with."""
    model, images = make_model(dtype=float64).eval(), make_images(count, dtype=float64)
    method = ExtremalPerturbation(AREAS, **settings)
    search = method._search(images)
    generator = torch.Generator().manual_seed(1)
    size = (len(AREAS) * count, *search.smooth_mask.grid_size)
    grids = torch.rand(size, generator=generator, dtype=float64)
    return search, method._rewards(model, images, torch.arange(count)), grids


@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
def test_masks_become_better_and_never_worse(variant: str) -> None:
    search, rewards, grids = begun(variant=variant)
    before = evaluate_grid(search, grids, rewards).rewards
    once, twice = (
        evaluate_grid(search, search_on(search, [grids], rewards, rounds), rewards).rewards
        for rounds in (1, 2)
    )
    assert (once > before).all()
    assert (twice >= once).all()
    assert (twice > once).any()


def test_starts_from_the_better_grid_of_each_mask() -> None:
    search, rewards, grids = begun()
    other = grids.flip(0)
    found = search_on(search, [grids, other], rewards, 0)
    one, two = (evaluate_grid(search, each, rewards).rewards for each in (grids, other))
    assert (one > two).any()
    assert (two > one).any()
    best = evaluate_grid(search, found, rewards).rewards
    torch.testing.assert_close(best, torch.maximum(one, two), rtol=0, atol=0)


def test_each_mask_is_searched_for_by_itself() -> None:
    search, rewards, grids = begun()
    together = search_on(search, [grids], rewards, 2)
    few, some, _ = begun(2)
    alone = search_on(few, [grids[:4]], some, 2)
    torch.testing.assert_close(together[:4], alone)


def test_masks_that_gain_nothing_have_no_more_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    with_slopes = PictureRewards.with_slopes

    def counted(self: PictureRewards, pictures: list[Tensor], *args: Any) -> Any:
        shown.append(len(pictures[0]))
        return with_slopes(self, pictures, *args)

    search, rewards, grids = begun()
    found = search_on(search, [grids], rewards, 30)
    monkeypatch.setattr(PictureRewards, "with_slopes", counted)
    # Another round for each of the six masks, which have ended.
    search_on(search, [found], rewards, 30)
    first = shown[:8]
    assert first == [3] * 8
    # Twice 240 iterations, if none of them ended.
    assert len(shown) < 2 * 240
    shown.clear()
    search_on(search, [grids], rewards, 3)
    counts = shown[::8]
    assert shown == [count for count in counts for _ in range(8)]
    assert sum(counts) <= 18


def test_repeats_to_the_bit_and_leaves_the_history() -> None:
    model, images = make_model(), make_images()
    method = ExtremalPerturbation(AREAS, max_iter=4, rounds=2)
    first, second = (method.masks(model, images, 1) for _ in range(2))
    assert bits(first.masks) == bits(second.masks)
    assert first.history.shape[-1] == 4
    plain = ExtremalPerturbation(AREAS, max_iter=4).masks(model, images, 1)
    assert bits(first.history) == bits(plain.history)
    assert (first.rewards[:, 0] >= plain.rewards[:, 0]).all()
    assert (first.rewards > plain.rewards).any()
