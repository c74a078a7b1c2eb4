import math

import pytest
import torch

from lightning_saliency.image.blur import gaussian_blur
from lightning_saliency.metrics import (
    MEASURES,
    OBJECT_MEASURES,
    energy_inside,
    pointing_hit,
    region_mass,
    region_share,
    top10_region_iou,
)


def maps(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 1, 28, 32, generator=torch.Generator().manual_seed(seed))


def regions() -> torch.Tensor:
    found = torch.zeros(3, 1, 28, 32, dtype=torch.bool)
    found[0, :, 4:9, 6:20], found[1, :, 20:, :3] = True, True
    return found


def test_every_measure_is_enrolled_under_its_name() -> None:
    assert list(OBJECT_MEASURES) == ["energy", "pointing", "top10_iou"]
    assert [each.name for each in OBJECT_MEASURES.values()] == list(OBJECT_MEASURES)
    assert [each.column() for each in OBJECT_MEASURES.values()] == [
        "energy on object",
        "pointing on object",
        "top10_iou on object",
    ]


@pytest.mark.parametrize("name", OBJECT_MEASURES)
def test_an_amount_is_what_the_object_does_not_hold(name: str) -> None:
    measure = OBJECT_MEASURES[name]
    assert (measure.amount(1.0), measure.amount(0.25)) == (0.0, 0.75)


def test_energy_and_overlap_are_those_of_the_functions() -> None:
    for offset in (False, True):
        came = OBJECT_MEASURES["energy"](maps() + 5, regions(), has_offset=offset)
        wanted = energy_inside(maps() + 5, regions(), subtract_minimum=offset)
        assert torch.equal(came.nan_to_num(-1), wanted.nan_to_num(-1))
    came = OBJECT_MEASURES["top10_iou"](maps(), regions())
    assert torch.equal(came.nan_to_num(-1), top10_region_iou(maps(), regions()).nan_to_num(-1))


@pytest.mark.parametrize(("side", "hits", "misses"), [(224, 14, 15), (448, 29, 30)])
def test_pointing_allows_15_pixels_at_a_shorter_side_of_224(
    side: int, hits: int, misses: int
) -> None:
    target = torch.zeros(1, 1, side, side + 4, dtype=torch.bool)
    target[..., 100, 100] = True
    for distance, hit in ((hits, 1.0), (misses, 0.0)):
        one = torch.zeros(1, 1, side, side + 4)
        one[..., 100, 100 + distance] = 1.0
        assert OBJECT_MEASURES["pointing"](one, target).tolist() == [hit]


def test_nothing_points_at_an_object_that_is_not_there() -> None:
    assert OBJECT_MEASURES["pointing"](maps(), regions())[2].isnan()


def test_flat_tops_are_blurred_before_pointing() -> None:
    # A plateau whose first pixel is off the object and whose middle is on it.
    flat = torch.zeros(1, 1, 28, 32)
    flat[..., 4:21, 4:21] = 1.0
    middle = torch.zeros(1, 1, 28, 32, dtype=torch.bool)
    middle[..., 12, 12] = True
    assert float(OBJECT_MEASURES["pointing"](flat, middle)) == 0.0
    came = OBJECT_MEASURES["pointing"](flat, middle, flat_top_blur=0.09)
    wanted = pointing_hit(gaussian_blur(flat, 0.09 * 28), middle, tolerance=15 / 224 * 28)
    assert (float(came), bool(wanted)) == (1.0, True)


def test_a_degenerate_map_points_nowhere_and_has_no_share() -> None:
    constant = torch.ones(3, 1, 28, 32)
    assert OBJECT_MEASURES["pointing"](constant, regions(), flat_top_blur=0.09)[:2].tolist() == [
        0,
        0,
    ]
    assert OBJECT_MEASURES["energy"](constant, regions()).isnan().all()
    assert region_share(constant, regions()).isnan().all()


def test_the_share_of_a_region_that_is_not_there_is_missing() -> None:
    came = region_share(maps(), regions(), has_offset=True)
    wanted = region_mass(maps(), regions(), subtract_minimum=True)
    assert torch.equal(came[:2], wanted[:2])
    assert (float(wanted[2]), math.isnan(float(came[2]))) == (0.0, True)


def test_measures_of_drift_say_what_they_are() -> None:
    facts = {
        name: (each.best, each.unrelated, each.is_similarity, each.is_calibrated)
        for name, each in list(MEASURES.items())[:5]
    }
    assert facts == {
        "top10_iou": (1.0, 0.05, True, True),
        "spearman": (1.0, 0.0, True, True),
        "ssim": (1.0, 0.0, True, True),
        "center_shift": (0.0, None, False, True),
        "log2_norm_ratio": (0.0, None, False, False),
    }
    assert [each.name for each in MEASURES.values()] == list(MEASURES)
    assert MEASURES["ssim"].column("previous") == "ssim to previous"
