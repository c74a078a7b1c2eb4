"""Maps that are described once give what they give when they are compared anew."""

import pytest
import torch
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.metrics import MEASURES, sample_drift
from lightning_saliency.metrics.map_similarity import similarity
from lightning_saliency.metrics.map_statistics import MapStatistics

WHAT = ["is_degenerate", "largest_tenth", "ranks", "center", "log2_norm"]


def maps(seed: int = 0, count: int = 5) -> Tensor:
    drawn = torch.rand(count, 1, 16, 12, generator=torch.Generator().manual_seed(seed))
    drawn[1] = 0.0
    drawn[2] = (drawn[2] - 0.5).clamp_min(0)
    return drawn


def same(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.nan_to_num(-7), second.nan_to_num(-7))


def test_all_measures_at_once_are_the_measures() -> None:
    current, reference = maps(0), maps(1)
    found = similarity(MapStatistics(current), MapStatistics(reference))
    assert list(found) == list(MEASURES)
    for name, measure in MEASURES.items():
        assert same(found[name], measure(current, reference)), name


def test_some_maps_of_a_description_are_those_maps_described() -> None:
    chosen = torch.tensor([3, 0, 2])
    some, alone = MapStatistics(maps()).of(chosen), MapStatistics(maps()[chosen])
    assert len(some) == 3
    for what in WHAT:
        assert same(getattr(some, what), getattr(alone, what)), what
    for part, other in zip(some.local, alone.local, strict=True):
        assert torch.allclose(part, other, atol=1e-15)


def test_ranks_have_no_mean_and_equal_values_share_theirs() -> None:
    levels = torch.tensor([[3.0, 1.0], [1.0, 2.0]])[None, None]
    assert MapStatistics(levels).ranks.tolist() == [[1.5, -1.0, -1.0, 0.5]]


def test_a_description_is_used_again_and_not_made_anew() -> None:
    current, reference = MapStatistics(maps(0)), MapStatistics(maps(1))
    similarity(current, reference)
    kept = [getattr(reference, what) for what in WHAT]
    again = similarity(MapStatistics(maps(2)), reference)
    assert all(getattr(reference, what) is one for what, one in zip(WHAT, kept, strict=True))
    for name, values in sample_drift(maps(2), maps(1)).items():
        assert same(values, again[name]), name


def test_a_description_made_without_gradients_serves_later() -> None:
    with torch.inference_mode():
        reference = MapStatistics(maps(1).clone())
        similarity(MapStatistics(maps(0).clone()), reference)
    later = similarity(MapStatistics(maps(0).requires_grad_()), reference)
    assert not any(values.requires_grad for values in later.values())
    assert same(later["ssim"], MEASURES["ssim"](maps(0), maps(1)))


def test_what_is_no_batch_of_maps_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(N, 1, H, W\)"):
        MapStatistics(torch.rand(3, 8, 8))
