"""What methods say of themselves is true, and is what the tables and benchmarks show."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import METHODS, make_method
from tiny_models import make_images, make_model
from torch import Tensor

from lightning_saliency import attribution
from lightning_saliency.attribution import (
    RISE,
    AttributionMethod,
    ContrastiveExcitationBackprop,
    ExtremalPerturbation,
    GradCAM,
    Gradient,
)
from lightning_saliency.attribution.from_function import FromFunction
from lightning_saliency.attribution.pointing import PointingSetup
from lightning_saliency.benchmark import METHODS as IN_THE_BENCHMARK
from lightning_saliency.benchmark import (
    DigitsPointing,
    Layers,
    PointingModel,
    Recipe,
    pointing_recipe,
)
from lightning_saliency.trust import KNOWN_TO_FAIL, VERDICTS

README = Path(inspect.getfile(attribution)).parents[2] / "README.md"

every_method = pytest.mark.parametrize("name", METHODS)


def test_every_list_has_every_method() -> None:
    classes = set(attribution.METHODS)
    assert classes == set(METHODS.values())
    names = [method.name for method in attribution.METHODS]
    assert ["center", *names] == list(IN_THE_BENCHMARK)
    assert names == list(VERDICTS)
    assert [name for name in names if VERDICTS[name].outcome == "fails"] == list(KNOWN_TO_FAIL)


def test_methods_that_alarms_leave_out_are_known_to_fail() -> None:
    left_out = {m.name for m in attribution.METHODS if m.insensitive_to_late_layers}
    assert left_out == {"deconvnet", "guided_backprop"}
    assert left_out < set(KNOWN_TO_FAIL)


def test_the_table_of_the_readme_is_what_the_methods_say() -> None:
    rows = [
        f"| `{method.__name__}` | {method.shows} | {method.cost} | {method.not_for} |".replace(
            "|  |", "| |"
        )
        for method in attribution.METHODS
    ]
    head = ["| method | shows | cost of one map | does not apply |", "|---|---|---|---|"]
    table = "\n".join([*head, *rows])
    found = f"\n{table}\n\n" in README.read_text(encoding="utf-8")
    assert found, f"Expected in README.md:\n{table}"


@every_method
def test_what_the_table_needs_is_said(name: str) -> None:
    method = METHODS[name]
    assert method.shows
    assert method.cost
    assert bool(method.not_for) == method.needs_gradient


@every_method
def test_only_signed_maps_have_negative_values(name: str) -> None:
    # Excitation backprop assumes activations >= 0, so its maps of the image need such an image.
    model, images = make_model(), make_images().abs()
    maps = [make_method(name)(model, images, target) for target in range(5)]
    assert any(bool((some < 0).any()) for some in maps) == METHODS[name].signed


@every_method
def test_another_seed_changes_the_maps_of_stochastic_methods_alone(name: str) -> None:
    model, images, method = make_model(), make_images(), make_method(name)
    has_seed = "seed" in {field.name for field in dataclasses.fields(method)}
    assert has_seed == METHODS[name].stochastic
    other = method.reseeded()
    assert torch.equal(method(model, images, 1), other(model, images, 1)) != has_seed
    assert other == (dataclasses.replace(method, seed=1) if has_seed else method)


@every_method
def test_layers_are_those_that_the_settings_name(name: str) -> None:
    fields = {f.name for f in dataclasses.fields(METHODS[name]) if f.name.endswith("_layer")}
    assert set(METHODS[name].layer_settings) == fields
    assert make_method(name).layers() == ()
    named = make_method(name, **dict.fromkeys(fields, "features"))
    assert named.layers() == ("features",) * len(fields)


def test_several_layers_come_in_the_order_of_the_settings() -> None:
    method = ContrastiveExcitationBackprop("features", None, "head")
    assert method.layers() == ("features", "head")


@every_method
def test_explain_is_the_call_and_names_what_else_it_finds(name: str) -> None:
    model, images, method = make_model(), make_images(), make_method(name)
    found = method.explain(model, images, [1, 2])
    assert torch.equal(found.saliency, method(model, images, [1, 2]))
    assert method.extra_names() == ([] if found.extras is None else list(found.extras.numbers()))


@pytest.mark.parametrize(
    ("method", "offset"),
    [
        (RISE(), False),
        (RISE(preset="balanced"), False),
        (RISE(preset="paper"), True),
        (RISE(preset="torchray"), True),
        (Gradient(), False),
    ],
)
def test_published_rise_maps_have_an_offset(method: AttributionMethod, offset: bool) -> None:
    assert method.has_offset == offset
    saliency = method(make_model(), make_images(), 1)
    # So large a level that the least value is more than half of the largest.
    assert bool((saliency.amin((1, 2, 3)) > 0.5 * saliency.amax((1, 2, 3))).all()) == offset


# --- words and plain values -------------------------------------------------------------------


def spot(model: Any, image: Tensor, target: Any) -> Tensor:
    return image[:, :1]


def test_words_for_a_method_leave_out_what_does_not_change_its_maps() -> None:
    assert GradCAM("layer4").describe() == (
        "GradCAM(resize=True, resize_mode='bilinear', smooth=0.0, saliency_layer='layer4', "
        "layout='auto')"
    )
    assert RISE(batch_size=3, autocast=True).describe() == RISE().describe()
    assert RISE(seed=3).describe() != RISE().describe()
    assert "function=spot" in FromFunction(spot).describe()


def test_settings_can_be_written_as_json() -> None:
    assert ExtremalPerturbation((0.1, 0.2), preset="torchray").settings() | {"resize": 0} == {
        "method": "ExtremalPerturbation",
        "resize": 0,
        "resize_mode": "bilinear",
        "smooth": 0.0,
        "areas": [0.1, 0.2],
        "perturbation": "blur",
        "max_iter": None,
        "num_levels": 8,
        "step": None,
        "sigma": None,
        "jitter": True,
        "variant": "preserve",
        "reward_func": "simple",
        "preset": "torchray",
        "batch_size": "auto",
        "autocast": False,
        "seed": 0,
        "tolerance": None,
        "rounds": 0,
    }
    assert FromFunction(spot).settings()["function"] == "spot"


# --- the pointing game ------------------------------------------------------------------------

# As they were published; what stands here is compared with TorchRay in the benchmark's tests.
RECIPES = {
    "gradient": ("Gradient(resize=False)", 0.02, "longer", False, False),
    "deconvnet": ("DeconvNet(resize=False)", 0.02, "longer", False, False),
    "guided_backprop": ("GuidedBackprop(resize=False)", 0.02, "longer", False, False),
    "linear_approx": ("LinearApprox('a', resize=False)", 0.0, "longer", False, False),
    "grad_cam": ("GradCAM('a', resize=False)", 0.0, "longer", False, False),
    "excitation_backprop": ("ExcitationBackprop('b', resize=False)", 0.0, "longer", False, False),
    "contrastive_excitation_backprop": (
        "ContrastiveExcitationBackprop('b', 'c', resize=False)",
        *(0.0, "longer", False, False),
    ),
    "rise": ("RISE(512, resize=False)", 0.0, "longer", True, True),
    "extremal_perturbation": (
        "ExtremalPerturbation((0.02, 0.04), resize=False)",
        *(0.09, "shorter", False, True),
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_the_published_ones(name: str) -> None:
    model = PointingModel("none", torch.nn.Identity(), layers=Layers("a", "b", "c"))
    code, *around = RECIPES[name]
    wanted = Recipe(name, eval(code, dict(vars(attribution))), *around)
    data = DigitsPointing(1)
    assert pointing_recipe(name, model, data) == wanted
    # Files of results hold this text, and go on only where it is the same.
    assert repr(pointing_recipe(name, model, data)) == repr(wanted)


def test_a_preset_or_several_labels_change_what_rise_scores() -> None:
    several = PointingSetup(multi_label=True, num_masks=64)
    assert RISE.for_pointing_game(several) == RISE(64, score="sigmoid", resize=False)
    published = dataclasses.replace(several, preset="torchray")
    assert RISE.for_pointing_game(published) == RISE(preset="torchray", resize=False)


@every_method
def test_every_method_can_play(name: str) -> None:
    method = METHODS[name].for_pointing_game(PointingSetup())
    assert type(method) is METHODS[name]
    assert method.resize is False
