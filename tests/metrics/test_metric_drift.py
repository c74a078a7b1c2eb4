import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.metrics import (
    MEASURES,
    NO_DRIFT,
    SaliencyDrift,
    calibrated_drift,
    canonical,
    chance_drift,
    drift_amount,
    mean_drift,
    sample_drift,
)

ALL = {*MEASURES, "degenerate_frac"}


def maps(seed: int, count: int = 6, size: int = 20) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed))


def test_the_measures_have_the_logged_names() -> None:
    assert list(MEASURES)[:5] == [
        "top10_iou",
        "spearman",
        "ssim",
        "center_shift",
        "log2_norm_ratio",
    ]
    assert list(NO_DRIFT) == list(MEASURES)


@pytest.mark.parametrize("size", [64, 10])
def test_sample_drift_shrinks_the_maps(size: int) -> None:
    current, reference = maps(0, size=100), maps(1, size=100)
    values = sample_drift(current, reference, size)
    small = [F.interpolate(each, size=(size, size), mode="area") for each in (current, reference)]
    for name, measure in MEASURES.items():
        assert torch.allclose(values[name], measure(*small), atol=1e-5)


def test_a_reference_that_was_made_comparable_fits_a_large_map() -> None:
    large = maps(0, size=100)
    assert mean_drift(sample_drift(large, canonical(large)))["spearman"] == 1.0


def test_equal_maps_have_not_drifted_at_all() -> None:
    drift = SaliencyDrift()
    drift.update(maps(0), maps(0))
    drift.update(maps(1, size=9), maps(1, size=9))
    assert {name: float(value) for name, value in drift.compute().items()} == {
        **NO_DRIFT,
        "degenerate_frac": 0.0,
    }


def test_means_are_over_the_samples_that_can_be_compared() -> None:
    current, reference = maps(0), maps(1)
    current[0] = 0.0
    reference[1] = 5.0
    current[2] = torch.nan
    drift = SaliencyDrift()
    drift.update(current[:2], reference[:2])
    drift.update(current[2:], reference[2:])
    result = drift.compute()
    assert result.keys() == ALL
    assert float(result["degenerate_frac"]) == 0.5
    for name, measure in MEASURES.items():
        mean = measure(current[3:], reference[3:]).double().mean()
        assert float(result[name]) == pytest.approx(float(mean), rel=1e-6)
        assert result[name].shape == ()
        assert result[name].dtype == torch.float32
    per_sample = drift.per_sample
    assert all(
        values.isnan().tolist() == [True] * 3 + [False] * 3 for values in per_sample.values()
    )
    assert torch.equal(per_sample["ssim"][3:], sample_drift(current, reference)["ssim"][3:])


def test_nothing_to_compare_is_nan_and_not_no_drift() -> None:
    drift = SaliencyDrift()
    drift.update(torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 8))
    result = drift.compute()
    assert float(result["degenerate_frac"]) == 1.0
    assert all(result[name].isnan() for name in MEASURES)


def test_no_samples_at_all() -> None:
    drift = SaliencyDrift()
    drift.update(torch.zeros(0, 1, 8, 8), torch.zeros(0, 1, 8, 8))
    result = drift.compute()
    assert result.keys() == ALL
    assert all(value.isnan() for value in result.values())


def test_before_the_first_update_torchmetrics_warns_and_all_is_nan() -> None:
    drift = SaliencyDrift()
    assert all(values.shape == (0,) for values in drift.per_sample.values())
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        result = drift.compute()
    assert all(value.isnan() for value in result.values())


def test_the_number_of_batches_does_not_matter() -> None:
    whole, parts = SaliencyDrift(), SaliencyDrift()
    whole.update(maps(0), maps(1))
    for i in range(6):
        parts.update(maps(0)[i : i + 1], maps(1)[i : i + 1])
    for name, value in whole.compute().items():
        assert float(parts.compute()[name]) == pytest.approx(float(value), rel=1e-6)


def test_reset_forgets_and_forward_gives_the_batch() -> None:
    drift = SaliencyDrift()
    drift.update(maps(0), -maps(0))
    batch = drift(maps(1), maps(1))
    assert float(batch["spearman"]) == 1.0
    assert float(drift.compute()["spearman"]) == pytest.approx(0.0, abs=1e-6)
    drift.reset()
    assert len(drift.per_sample["ssim"]) == 0
    drift.update(maps(1), maps(1))
    assert float(drift.compute()["spearman"]) == 1.0


def test_it_can_be_pickled_copied_and_saved() -> None:
    drift = SaliencyDrift(size=16)
    drift.persistent(True)
    drift.update(maps(0), maps(1))
    fresh = SaliencyDrift(size=16)
    fresh.persistent(True)
    fresh.load_state_dict(drift.state_dict())
    fresh._update_count = 1  # torchmetrics does not save that there was an update
    expected = drift.compute()
    for other in (pickle.loads(pickle.dumps(drift)), copy.deepcopy(drift), fresh):
        assert other.compute() == expected
        assert other.size == 16


def test_updates_in_inference_mode_and_with_gradients() -> None:
    drift = SaliencyDrift()
    with torch.inference_mode():
        drift.update(maps(0), maps(1))
    drift.update(maps(2).requires_grad_(), maps(3).requires_grad_())
    assert not drift.compute()["ssim"].requires_grad
    assert len(drift.per_sample["ssim"]) == 12


def test_double_precision_maps_leave_single_precision_states() -> None:
    drift = SaliencyDrift()
    drift.update(maps(0).double(), maps(1).double())
    assert {values.dtype for values in drift.per_sample.values()} == {torch.float32}


def test_maps_of_other_samples_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(6, 1, 20, 20\).*\(5, 1, 20, 20\)"):
        SaliencyDrift().update(maps(0), maps(0)[:5])


def test_chance_compares_each_map_with_the_next() -> None:
    images = maps(0, count=4)
    chance = chance_drift(images)
    for name, measure in MEASURES.items():
        assert torch.equal(chance[name], measure(images, images[[3, 0, 1, 2]]))


def test_chance_passes_over_degenerate_maps() -> None:
    images = maps(0, count=5)
    images[1] = 0.0
    images[4] = torch.nan
    assert torch.equal(chance_drift(images)["ssim"], chance_drift(images[[0, 2, 3]])["ssim"])


def test_maps_of_one_pixel_have_no_chance_level() -> None:
    assert all(len(values) == 0 for values in chance_drift(torch.rand(3, 1, 1, 1)).values())


@pytest.mark.parametrize("count", [0, 1])
def test_there_is_no_chance_level_without_two_maps(count: int) -> None:
    images = torch.zeros(4, 1, 8, 8)
    images[:count, 0, 0, 0] = 1.0
    assert all(values.shape == (0,) for values in chance_drift(images).values())
    assert mean_drift(chance_drift(images))["spearman"].isnan()


@pytest.mark.parametrize(
    ("name", "value", "amount"),
    [
        ("top10_iou", 0.7, 0.3),
        ("spearman", -0.5, 1.5),
        ("ssim", 1.0, 0.0),
        ("center_shift", 0.2, 0.2),
        ("log2_norm_ratio", -3.0, 3.0),
    ],
)
def test_drift_amount_takes_numbers_and_tensors(name: str, value: float, amount: float) -> None:
    assert drift_amount(name, value) == pytest.approx(amount)
    assert float(drift_amount(name, torch.tensor(value))) == pytest.approx(amount)


def means(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(values.get(name, 0.5)) for name in MEASURES}


def test_calibrated_drift_is_a_share_of_the_way_from_noise_to_chance() -> None:
    values = means(top10_iou=0.6, spearman=0.9, ssim=0.2, center_shift=0.15)
    chance = means(top10_iou=0.2, spearman=0.0, ssim=0.0, center_shift=0.25)
    noise = means(top10_iou=0.8, spearman=0.8, ssim=0.5, center_shift=0.05)
    relative = calibrated_drift(values, chance, noise)
    # (noise - value) / (noise - chance) for the similarities, not below 0
    assert {name: round(float(relative[name]), 5) for name in list(MEASURES)[:4]} == {
        "top10_iou": round(0.2 / 0.6, 5),
        "spearman": 0.0,
        "ssim": 0.6,
        "center_shift": 0.5,
    }
    assert "log2_norm_ratio" not in relative
    without_noise = calibrated_drift(values, chance)
    assert float(without_noise["top10_iou"]) == pytest.approx(0.4 / 0.8)
    assert float(without_noise["center_shift"]) == pytest.approx(0.15 / 0.25)


def test_calibrated_drift_is_nan_where_noise_is_as_large_as_chance() -> None:
    relative = calibrated_drift(means(), means(ssim=0.4), means(ssim=0.3))
    assert all(value.isnan() for value in relative.values())
    missing = calibrated_drift(means(ssim=torch.nan), means(ssim=0.1))
    assert missing["ssim"].isnan()


def test_calibrated_drift_has_bounds() -> None:
    # 1 - 0.1 by 1 - 0.2: further from its reference than maps of different images are.
    beyond = calibrated_drift(means(ssim=0.1), means(ssim=0.2))
    assert float(beyond["ssim"]) == 1
    # Chance and noise are 0.09 apart, then 0.11.
    near = calibrated_drift(means(ssim=0.5), means(ssim=0.4), means(ssim=0.49))
    assert near["ssim"].isnan()
    far = calibrated_drift(means(ssim=0.5), means(ssim=0.4), means(ssim=0.51))
    assert float(far["ssim"]) == pytest.approx(1 / 11, abs=1e-4)
    shift = calibrated_drift(means(center_shift=0.02), means(center_shift=0.04))
    assert float(shift["center_shift"]) == pytest.approx(0.5)


def test_calibrated_drift_of_samples_exchanged_is_one() -> None:
    images = maps(0)
    values = mean_drift(sample_drift(images, images.roll(1, 0)))
    relative = calibrated_drift(values, mean_drift(chance_drift(images)))
    assert all(float(value) == pytest.approx(1.0) for value in relative.values())
