"""Faithfulness of maps, against computations of its own and other packages."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics import road
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from tally import Tally
from tiny_models import in_training, make_images, make_model
from torch import Tensor, nn
from traces import leaves_no_trace

from lightning_saliency.attribution import GradCAM
from lightning_saliency.benchmark import get_example_data, get_example_regions
from lightning_saliency.errors import InputError
from lightning_saliency.image.blur import gaussian_blur
from lightning_saliency.metrics import FAITHFULNESS
from lightning_saliency.trust import measure_faithfulness

ALL = list(FAITHFULNESS)
IMAGES = make_images(3, (20, 20))
TARGETS = torch.tensor([0, 3, 4])
MAPS = torch.rand(3, 1, 20, 20, generator=torch.Generator().manual_seed(8)) - 0.3


def probability(model: nn.Module, picture: np.ndarray[Any, Any], target: int) -> float:
    with torch.no_grad():
        scores = model(torch.from_numpy(picture)[None].float())[0].double().numpy()
    scores = np.exp(scores - scores.max())
    return float(scores[target] / scores.sum())


def naive(
    model: nn.Module, image: Tensor, saliency: Tensor, target: int, steps: int
) -> dict[str, float]:
    """All but ROAD, written out with numpy for one image."""
    picture, values = image.numpy(), saliency[0].numpy()
    blurred = gaussian_blur(image[None], 20 * 20 / 224)[0].numpy()
    order = np.argsort(-values.ravel())
    curves: dict[str, list[float]] = {"insertion": [], "deletion": []}
    for step in range(steps + 1):
        chosen = np.zeros(values.size, bool)
        chosen[order[: round(values.size * step / steps)]] = True
        chosen = chosen.reshape(values.shape)
        curves["insertion"].append(probability(model, np.where(chosen, picture, blurred), target))
        curves["deletion"].append(probability(model, np.where(chosen, 0, picture), target))
    found = {}
    for name, curve in curves.items():
        found[name] = (sum(curve) - (curve[0] + curve[-1]) / 2) / steps
    unit = (values - values.min()) / (values.max() - values.min())
    clean, explained = (
        probability(model, picture, target),
        probability(model, picture * unit, target),
    )
    found["average_drop"] = max(0.0, clean - explained) / clean
    found["increase"] = float(explained > clean)
    return found


@pytest.mark.parametrize("kind", ["vgg", "residual", "functional"])
@pytest.mark.parametrize("steps", [7, 16])
def test_equals_the_formulas_written_out(kind: str, steps: int) -> None:
    model = make_model(kind)
    measures = [name for name in ALL if name != "road"]
    came = measure_faithfulness(model, IMAGES, MAPS, TARGETS, measures, steps)
    assert list(came) == measures
    for index in range(3):
        wanted = naive(model, IMAGES[index], MAPS[index], int(TARGETS[index]), steps)
        for name in measures:
            assert float(came[name][index]) == pytest.approx(wanted[name], abs=1e-5), name


@pytest.fixture
def _noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both without noise, whose draws differ."""
    monkeypatch.setattr(road.NoisyLinearImputer.__init__, "__defaults__", (0.0, None))
    module = import_module("lightning_saliency.trust.faithfulness")
    original = module.removal_scores
    monkeypatch.setattr(module, "removal_scores", lambda *args: original(*args, noise=0.0))


@pytest.mark.usefixtures("_noiseless")
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")
@pytest.mark.parametrize("kind", ["functional", "linear"])
def test_road_equals_that_of_pytorch_grad_cam(kind: str) -> None:
    # Confident, so that removing pixels matters.
    if kind == "linear":
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(1200, 5))
    else:
        model = make_model(kind)
        with torch.no_grad():
            model.head.weight.mul_(50)
    targets = [ClassifierOutputSoftmaxTarget(int(target)) for target in TARGETS]
    wanted = road.ROADCombined()(IMAGES, MAPS[:, 0].numpy(), targets, model)
    came = measure_faithfulness(model, IMAGES, MAPS, TARGETS, ["road"])["road"]
    assert np.abs(wanted).max() > 0.02
    np.testing.assert_allclose(came.numpy(), wanted, atol=2e-4)


class CountsRows(nn.Module):
    """Counts the images that go through a model."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model()
        self.rows = Tally()

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return self.inner(x)


@pytest.mark.parametrize(
    ("measures", "passes"),
    [
        ([], 1),
        (["insertion"], 1 + 16),
        (["insertion", "deletion"], 1 + 32),
        (["average_drop"], 1 + 1),
        (["average_drop", "increase"], 1 + 1),
        (["road"], 1 + 18),
        (ALL, 1 + 32 + 1 + 18),
    ],
)
def test_costs_what_the_docstring_says(measures: list[str], passes: int) -> None:
    model = CountsRows()
    for count in (1, 3):
        model.rows.clear()
        measure_faithfulness(model, IMAGES[:count], MAPS[:count], "predicted", measures)
        assert sum(model.rows) == count * passes


def test_the_right_map_beats_its_opposite() -> None:
    model, image, category, _ = get_example_data()
    right = gaussian_blur(get_example_regions()[:1].float(), 5.0)
    good, bad = (
        measure_faithfulness(model, image, maps, category, ALL, steps=8) for maps in (right, -right)
    )
    for name, higher in FAITHFULNESS.items():
        if name != "increase":
            better = good[name] > bad[name] if higher else good[name] < bad[name]
            assert bool(better), (name, good[name], bad[name])


def test_a_degenerate_map_has_no_faithfulness() -> None:
    maps = MAPS.clone()
    maps[0], maps[2, 0, 3, 3] = 0.25, torch.nan
    came = measure_faithfulness(make_model(), IMAGES, maps, TARGETS, ALL)
    whole = measure_faithfulness(make_model(), IMAGES, MAPS, TARGETS, ALL)
    for name, values in came.items():
        assert values.isnan().tolist() == [True, False, True]
        torch.testing.assert_close(values[1], whole[name][1], rtol=0, atol=1e-6)


def test_small_maps_are_resized_and_the_target_can_be_anything() -> None:
    model = make_model()
    small = GradCAM("features", resize=False)(model, IMAGES, TARGETS)
    large = GradCAM("features")(model, IMAGES, TARGETS)
    assert small.shape != large.shape
    for target in (1, [1, 1, 1], torch.tensor([1, 1, 1])):
        for maps in (small, large):
            came = measure_faithfulness(model, IMAGES, maps, target)
            wanted = measure_faithfulness(model, IMAGES, large, 1)
            torch.testing.assert_close(came, wanted)
    predicted = model(IMAGES).argmax(1)
    torch.testing.assert_close(
        measure_faithfulness(model, IMAGES, MAPS, "predicted", ALL),
        measure_faithfulness(model, IMAGES, MAPS, predicted, ALL),
    )
    torch.testing.assert_close(
        measure_faithfulness(model, IMAGES, MAPS, lambda output: output.softmax(1)[:, 1], ALL),
        measure_faithfulness(model, IMAGES, MAPS, 1, ALL),
    )


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_channels_sizes_and_dtypes(channels: int) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for size in ((9, 31), (17, 8)):
            model = make_model(channels=channels, dtype=dtype)
            images = make_images(2, size, channels, dtype)
            maps = images.abs().mean(1, keepdim=True)
            for name, values in measure_faithfulness(model, images, maps, 0, ALL).items():
                wide = torch.promote_types(dtype, torch.float32)
                assert values.dtype == wide, name
                assert values.shape == (2,)
                assert values.isfinite().all()


def test_batches_do_not_matter_and_memory_is_shared() -> None:
    one = measure_faithfulness(make_model(), IMAGES, MAPS, TARGETS, ALL, batch_size=1)
    all_at_once = measure_faithfulness(make_model(), IMAGES, MAPS, TARGETS, ALL, batch_size=1000)
    for name, values in one.items():
        torch.testing.assert_close(values, all_at_once[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["vgg", "residual", "functional"])
def test_the_model_is_left_as_it_was_found(kind: str) -> None:
    model = in_training(make_model(kind))
    with leaves_no_trace(model, IMAGES, MAPS), torch.inference_mode():
        measure_faithfulness(model, IMAGES, MAPS, TARGETS, ALL)
    with leaves_no_trace(model, IMAGES, MAPS), pytest.raises(InputError, match="from 0 to 4"):
        measure_faithfulness(model, IMAGES, MAPS, 77, ALL)


def test_an_error_inside_the_model_leaves_no_trace() -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = make_model(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 3:
                raise ArithmeticError("inside the model")
            return self.inner(x)

    model = in_training(Breaks())
    with leaves_no_trace(model, IMAGES, MAPS), pytest.raises(ArithmeticError):
        measure_faithfulness(model, IMAGES, MAPS, 0, ALL, batch_size=2)


def test_bad_input() -> None:
    model = make_model()
    with pytest.raises(InputError, match="got 'fidelity'"):
        measure_faithfulness(model, IMAGES, MAPS, 0, ["fidelity"])
    with pytest.raises(InputError, match="one map for each of the 3 images"):
        measure_faithfulness(model, IMAGES, MAPS[:2], 0)
    with pytest.raises(InputError, match=r"maps of shape \(N, 1, H, W\)"):
        measure_faithfulness(model, IMAGES, MAPS[:, 0], 0)
    with pytest.raises(InputError, match="at least 1 step"):
        measure_faithfulness(model, IMAGES, MAPS, 0, steps=0)
    with pytest.raises(InputError, match="finite images"):
        measure_faithfulness(model, IMAGES / 0, MAPS, 0)
    with pytest.raises(InputError, match="from 0 to 4"):
        measure_faithfulness(model, IMAGES, MAPS, 5)
