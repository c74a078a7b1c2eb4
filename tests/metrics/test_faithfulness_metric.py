"""The formulas of faithfulness, and their mean over batches."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
from torch import Tensor, nn

from lightning_saliency.errors import InputError
from lightning_saliency.metrics import (
    FAITHFULNESS,
    Faithfulness,
    confidence_drop,
    confidence_increase,
    curve_area,
    removal_contrast,
)


def scores(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_area_by_hand() -> None:
    curve = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 1], [0, 1, 1, 0]])
    assert curve_area(curve).tolist() == pytest.approx([1.0, 1 / 6, 2 / 3])


def test_area_is_that_of_the_trapezoids() -> None:
    curves = scores(5, 17)
    naive = [sum((a + b) / 2 for a, b in pairwise(c)) / 16 for c in curves.tolist()]
    assert curve_area(curves).tolist() == pytest.approx(naive)
    petsiuk = [(c.sum() - c[0] / 2 - c[-1] / 2) / (len(c) - 1) for c in curves.numpy()]
    assert curve_area(curves).tolist() == pytest.approx(np.array(petsiuk).tolist())


def test_drop_and_increase_by_hand() -> None:
    clean = torch.tensor([0.8, 0.5, 0.5, 0.0])
    explained = torch.tensor([0.2, 0.5, 0.9, 0.3])
    drop = confidence_drop(clean, explained).tolist()
    assert drop[:3] == pytest.approx([0.75, 0.0, 0.0])
    assert math.isnan(drop[3])
    assert confidence_increase(clean, explained).tolist() == [0, 0, 1, 1]


class _Bright(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1)[:, None].expand(-1, 2)


def test_drop_and_increase_are_those_of_pytorch_grad_cam() -> None:
    images, maps = scores(6, 3, 8, 8), 2 * scores(6, 8, 8, seed=1)
    targets = [lambda output: output[0]] * 6
    drop = DropInConfidence()(images, maps.numpy(), targets, _Bright())
    rise = IncreaseInConfidence()(images, maps.numpy(), targets, _Bright())
    clean, explained = (_Bright()(x)[:, 0] for x in (images, images * maps[:, None]))
    # There the drop is not divided by the score.
    ours = confidence_drop(clean, explained) * clean
    assert ours.tolist() == pytest.approx(drop.tolist(), abs=1e-6)
    assert confidence_increase(clean, explained).tolist() == rise.tolist()
    assert 0 < sum(rise) < 6


def test_removal_contrast_by_hand() -> None:
    most, least = torch.tensor([[0.1, 0.0], [0.9, 0.9]]), torch.tensor([[0.9, 0.5], [0.9, 0.1]])
    assert removal_contrast(most, least).tolist() == pytest.approx([0.325, -0.2])


def test_metric_is_the_mean_over_what_could_be_measured() -> None:
    metric = Faithfulness(["road", "insertion"])
    nan = torch.nan
    metric.update({"road": torch.tensor([0.1, nan]), "insertion": torch.tensor([0.5, 0.7])})
    metric.update({"road": torch.zeros(0), "insertion": torch.zeros(0)})
    metric.update(
        {"road": torch.tensor([0.3]), "insertion": torch.tensor([0.0]), "more": scores(1)}
    )
    came = {name: float(value) for name, value in metric.compute().items()}
    assert came == pytest.approx({"road": 0.2, "insertion": 0.4, "degenerate_frac": 1 / 3})
    metric.reset()
    metric.update({"road": torch.zeros(0), "insertion": torch.zeros(0)})
    assert metric.compute()["road"].isnan()


def test_every_measure_says_which_way_is_better() -> None:
    assert dict(FAITHFULNESS) == {
        "insertion": True,
        "deletion": False,
        "average_drop": False,
        "increase": True,
        "road": True,
    }


def test_bad_input() -> None:
    with pytest.raises(InputError, match="at least one step"):
        curve_area(scores(3, 1))
    with pytest.raises(InputError, match="one clean and one explained"):
        confidence_drop(scores(3), scores(2))
    with pytest.raises(InputError, match="one clean and one explained"):
        confidence_increase(scores(3, 1), scores(3, 1))
    with pytest.raises(InputError, match="two tables"):
        removal_contrast(scores(3, 2), scores(3, 3))
    with pytest.raises(InputError, match="got 'fidelity'"):
        Faithfulness(["fidelity"])
    with pytest.raises(InputError, match="got 'insertion'"):
        Faithfulness("insertion")
    with pytest.raises(InputError, match="each measure once"):
        Faithfulness(["road", "road"])
    with pytest.raises(InputError, match="at least one of"):
        Faithfulness([])
    with pytest.raises(InputError, match="none for 'deletion'"):
        Faithfulness().update({"insertion": scores(2)})
    with pytest.raises(InputError, match="one value for each image"):
        Faithfulness().update({"insertion": scores(2), "deletion": scores(3)})
