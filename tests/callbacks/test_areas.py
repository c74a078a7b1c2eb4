"""Extremal perturbation area by area: the numbers, the pictures, and that it is searched once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from small_runs import QUIET, events, fit
from tiny_models import make_images, make_model

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import ExtremalPerturbation, Gradient
from lightning_saliency.attribution.mask_search.result import AreaMasks
from lightning_saliency.attribution.mask_search.search import MaskSearch

pytestmark = QUIET

METHOD = ExtremalPerturbation(areas=(0.1, 0.3), max_iter=6)


def test_the_map_is_that_of_the_method_and_the_rest_comes_with_it() -> None:
    model, images = make_model(), make_images(4)
    target = torch.tensor([1, 0, 2, 1])
    attribution = METHOD.explain(model, images, target)
    saliency, areas = attribution.saliency, attribution.extras
    assert torch.equal(saliency, METHOD(model, images, target))
    found = METHOD.masks(model, images, target)
    assert isinstance(areas, AreaMasks)
    assert areas.areas == (0.1, 0.3)
    assert torch.equal(areas.masks, found.masks)
    assert torch.equal(areas.probability, found.probability)
    for i in range(4):
        least, most = float(found.perturbed_reward[i]), float(found.clean_reward[i])
        if most <= least:
            assert areas.reward[i].isnan().all()
            assert areas.sufficient_area[i].isnan()
            continue
        expected = [(float(reward) - least) / (most - least) for reward in found.rewards[i]]
        np.testing.assert_allclose(areas.reward[i], expected, rtol=1e-5)
        enough = [area for area, reward in zip((0.1, 0.3), expected, strict=True) if reward >= 0.9]
        assert float(areas.sufficient_area[i]) == pytest.approx(min(enough, default=1.0))


def test_other_methods_have_no_areas() -> None:
    found = Gradient().explain(make_model(), make_images(), 1)
    assert torch.equal(found.saliency, Gradient()(make_model(), make_images(), 1))
    assert found.extras is None


def test_the_means_leave_out_what_says_nothing() -> None:
    nan = math.nan
    found = AreaMasks(
        areas=(0.1, 0.3),
        variant="preserve",
        masks=torch.zeros(3, 2, 4, 4),
        reward=torch.tensor([[0.2, 0.8], [0.6, 1.2], [nan, nan]]),
        probability=torch.zeros(3, 2),
        sufficient_area=torch.tensor([1.0, 0.3, nan]),
    )
    numbers = found.numbers()
    curves = [
        trapezoid([0.0, *rewards, 1.0], [0.0, 0.1, 0.3, 1.0])
        for rewards in ([0.2, 0.8], [0.6, 1.2])
    ]
    assert numbers == pytest.approx(
        {
            "area/reward_0.1": 0.4,
            "area/reward_0.3": 1.0,
            "area/sufficient": 0.65,
            "area/under_curve": float(np.mean(curves)),
        }
    )


@pytest.mark.parametrize("variant", ["preserve", "delete"])
def test_a_run_logs_the_areas_and_searches_once(
    variant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = []
    original = MaskSearch.run

    def counted(self: MaskSearch, *args: Any, **kwargs: Any) -> Any:
        searches.append(len(self.levels))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(MaskSearch, "run", counted)
    method = ExtremalPerturbation(areas=(0.1, 0.3), max_iter=4, variant=variant)
    callback = SaliencyCallback(method, samples=3, noise_every=None, on_error="raise", log="full")
    fit(tmp_path, callback)
    assert searches == [3, 3]
    found = events(tmp_path)
    for what in ("reward_0.1", "reward_0.3", "sufficient", "under_curve"):
        steps = [event.step for event in found.Scalars(f"saliency_area/{method.name}/{what}")]
        assert steps == [3, 7]
    # Input, map and overlay; beneath them the two masks, and beneath these their pixels.
    picture = found.Images(f"saliency/samples/{method.name}/0")[-1]
    plain = 128 + 20
    assert picture.height > 3 * plain
