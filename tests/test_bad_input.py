"""What cannot be explained ends in an error that says so, and leaves nothing behind."""

import dataclasses
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from contract import BACKWARD_RULE_METHODS, METHODS, make_method
from tiny_models import CLASSES, Returns, in_training, make_images, make_model
from torch import Tensor, nn
from traces import leaves_no_trace

from lightning_saliency.errors import (
    InputError,
    LayerError,
    ModelError,
    NoGradientError,
    SaliencyError,
)

every_method = pytest.mark.parametrize("name", METHODS)
# Layers that the method is given by name.
LAYER_FIELDS = ("saliency_layer", "contrast_layer", "classifier_layer")


def with_fields(*fields: str) -> list[tuple[str, str]]:
    return [
        (name, field.name)
        for name, method in METHODS.items()
        for field in dataclasses.fields(method)
        if field.name in fields
    ]


def assert_refuses(
    error: type[SaliencyError],
    words: tuple[str, ...],
    name: str,
    model: Any,
    image: Any,
    target: Any = 1,
    **settings: Any,
) -> None:
    method = make_method(name, **settings)
    tensors = [image] if isinstance(image, Tensor) else []
    watched = in_training(model) if isinstance(model, nn.Module) else nn.Identity()
    with leaves_no_trace(watched, *tensors), pytest.raises(error) as caught:
        method(model, image, target)
    message = str(caught.value)
    for word in words:
        assert word in message
    # Expected this, but came that, full stop.
    assert re.match(r"Expected .*[.?]$", message, re.DOTALL), message


# --- images -----------------------------------------------------------------------------------

IMAGES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "one image without batch": (
        torch.rand(3, 16, 16),
        ("(N, C, H, W)", "(3, 16, 16)", "image[None]"),
    ),
    "a video": (torch.rand(1, 3, 4, 16, 16), ("(N, C, H, W)", "(1, 3, 4, 16, 16)")),
    "empty batch": (torch.rand(0, 3, 16, 16), ("at least one image", "(0, 3, 16, 16)")),
    "no height": (torch.rand(1, 3, 0, 16), ("(1, 3, 0, 16)",)),
    "bytes": (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), ("floating point", "uint8", "255")),
    "complex": (torch.zeros(1, 3, 16, 16, dtype=torch.complex64), ("floating point", "complex64")),
    "list": ([torch.rand(3, 16, 16)], ("tensor", "list")),
    "array": (np.zeros((1, 3, 16, 16)), ("tensor", "ndarray")),
    "nan": (torch.full((1, 3, 16, 16), torch.nan), ("finite", "image 0", "NaN")),
    "one inf of three": (
        torch.stack([torch.zeros(3, 16, 16), torch.full((3, 16, 16), torch.inf)]),
        ("finite", "image 1"),
    ),
}


@every_method
@pytest.mark.parametrize("case", IMAGES)
def test_images(name: str, case: str) -> None:
    image, words = IMAGES[case]
    assert_refuses(InputError, words, name, make_model(), image)


# --- targets ----------------------------------------------------------------------------------


def _wrong_shape(output: Tensor) -> Tensor:
    return output


def _one_number(output: Tensor) -> Tensor:
    return output.sum()


def _no_tensor(output: Tensor) -> str:
    return "cat"


TARGETS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "too large": (CLASSES, ("from 0 to 4", "5 classes", "got 5")),
    "negative": (-1, ("from 0 to 4", "got -1")),
    "one of them too large": ([0, 7, 1], ("from 0 to 4", "got 7")),
    "too few": ([0, 1], ("one for each of the 3 images", "(2,)")),
    "too many": (torch.zeros(4, dtype=torch.long), ("one for each of the 3 images", "(4,)")),
    "none": ([], ("got",)),
    "one-hot": (torch.eye(CLASSES)[:3], ("integers", "float32", "argmax")),
    "whole one-hot": (torch.eye(CLASSES).long()[:3], ("one for each", "(3, 5)")),
    "float": (1.0, ("integers",)),
    "mask": (torch.tensor([True, False, True]), ("integers", "bool")),
    "truth value": (True, ("class index", "True")),
    "None": (None, ("class index", "None")),
    "unknown word": ("prediction", ("'predicted'", "'prediction'")),
    "words": (["cat", "dog", "dog"], ("integers", "cat")),
    "ragged": ([[0], [1, 2], [3]], ("integers",)),
    "dictionary": ({"label": 1}, ("integers", "label")),
    "callable without a score for each image": (
        _wrong_shape,
        ("one score for each", ", 5)"),
    ),
    "callable with one score": (_one_number, ("one score for each", "()")),
    "callable without a tensor": (_no_tensor, ("one score for each", "str")),
}


@every_method
@pytest.mark.parametrize("case", TARGETS)
def test_targets(name: str, case: str) -> None:
    target, words = TARGETS[case]
    assert_refuses(InputError, words, name, make_model(), make_images(3), target)


# --- models -----------------------------------------------------------------------------------


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], tuple[str, ...]]] = {
    "dictionary without logits": (
        lambda y: {"scores": y, "loss": y.sum()},
        ("logits", "dict", "['loss', 'scores']"),
    ),
    "text": (lambda y: "cat", ("logits", "str")),
    "nothing": (lambda y: None, ("logits", "NoneType")),
    "empty tuple": (lambda y: (), ("logits", "tuple")),
    "classes, not scores": (lambda y: y.argmax(1), ("logits",)),
    "one number": (lambda y: y.sum(), ("logits",)),
    "logits that are no tensor": (lambda y: SimpleNamespace(logits=[1, 2]), ("logits", "list")),
    "another number of rows": (lambda y: y[:2], ("3 images", "2")),
}


@every_method
@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs(name: str, case: str) -> None:
    change, words = OUTPUTS[case]
    assert_refuses(ModelError, words, name, Returns(change), make_images(3))


@every_method
def test_output_of_one_image_without_its_batch_dimension(name: str) -> None:
    # As squeeze() leaves it: five numbers for one image are its classes.
    image = make_images(1)
    maps = []
    for change in (lambda y: y, lambda y: y.squeeze(0)):
        torch.manual_seed(0)
        maps.append(make_method(name)(Returns(change), image, 3))
    assert torch.equal(*maps)
    assert bool(maps[0].any())


@every_method
@pytest.mark.parametrize("model", [lambda x: x, None, nn.ReLU], ids=["function", "None", "class"])
def test_no_module(name: str, model: object) -> None:
    assert_refuses(InputError, ("torch.nn.Module",), name, model, make_images())


@every_method
def test_model_on_another_device(name: str) -> None:
    model = make_model().to("meta")
    method, images = make_method(name), make_images()
    with pytest.raises(InputError, match=r"Expected the images on the model's device \(meta\)"):
        method(model, images, 1)


@every_method
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_layers_without_weights(name: str) -> None:
    # A lazy layer that its first input shapes would be made, and its random numbers drawn, here.
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES))
    method, images = make_method(name), make_images()
    with pytest.raises(ModelError, match=r"layer '3' \(LazyLinear\) waits for its first input"):
        method(model, images, 1)
    assert isinstance(model[3].weight, nn.UninitializedParameter)


@pytest.mark.parametrize("name", BACKWARD_RULE_METHODS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("form", ["script", "trace", "scripted part"])
def test_scripted_or_traced(name: str, form: str) -> None:
    model, images = make_model(), make_images()
    if form == "script":
        model = torch.jit.script(model)
    elif form == "trace":
        model = torch.jit.trace(model, images)
    else:
        model.hidden = torch.jit.script(model.hidden)
    with pytest.raises(ModelError, match="scripted or traced") as caught:
        make_method(name)(model, images, 1)
    assert "before" in str(caught.value)


class Detached(nn.Module):
    """Cannot be differentiated: it cuts the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model()
        self.features, self.head = self.inner.features, self.inner.head

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.detach())


@every_method
def test_score_without_a_gradient(name: str) -> None:
    if name == "RISE":
        return  # It takes no gradient.
    assert_refuses(NoGradientError, ("detach()",), name, Detached(), make_images())


# --- layers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "field"), with_fields(*LAYER_FIELDS))
def test_unknown_layer(name: str, field: str) -> None:
    words = ("'featuers'", "Did you mean", "'features'")
    assert_refuses(LayerError, words, name, make_model(), make_images(), **{field: "featuers"})


class Reuses(nn.Module):
    """Runs one layer twice and one not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 3, 3, padding=1)
        self.unused = nn.Conv2d(3, 3, 3)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.features(self.act(self.features(x))))
        return self.head(self.pool(x).flatten(1))


@pytest.mark.parametrize(("name", "field"), with_fields("saliency_layer", "contrast_layer"))
def test_layer_that_runs_twice(name: str, field: str) -> None:
    words = ("'features'", "2 times")
    settings = {"contrast_layer": "pool"} if "contrast_layer" in _fields(name) else {}
    settings[field] = "features"
    assert_refuses(LayerError, words, name, Reuses(), make_images(), **settings)


@pytest.mark.parametrize(("name", "field"), with_fields("saliency_layer", "contrast_layer"))
def test_layer_that_never_runs(name: str, field: str) -> None:
    words = ("'unused'", "not called")
    settings = {"contrast_layer": "pool"} if "contrast_layer" in _fields(name) else {}
    settings[field] = "unused"
    assert_refuses(LayerError, words, name, Reuses(), make_images(), **settings)


def _fields(name: str) -> set[str]:
    return {field.name for field in dataclasses.fields(METHODS[name])}


@pytest.mark.parametrize("name", [n for n in ("GradCAM", "LinearApprox") if n in METHODS])
def test_layer_without_a_spatial_output(name: str) -> None:
    words = ("(N, K, h, w)", "(2, 5)")
    assert_refuses(LayerError, words, name, make_model(), make_images(), saliency_layer="head")


@pytest.mark.parametrize("name", [n for n in ("GradCAM", "LinearApprox") if n in METHODS])
def test_model_without_a_spatial_layer(name: str) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(960, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    assert_refuses(LayerError, ("(N, K, h, w)", "Sequential"), name, flat, make_images())


# --- settings ---------------------------------------------------------------------------------

SHARED_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"resize": (0, 4)}, "resize"),
    ({"resize": (4,)}, "resize"),
    ({"resize": (4, 4, 4)}, "resize"),
    ({"resize": 4}, "resize"),
    ({"resize": None}, "resize"),
    ({"resize": "yes"}, "resize"),
    ({"resize": (4.5, 4.5)}, "resize"),
    ({"resize_mode": "cubic"}, "bilinear"),
    ({"resize_mode": None}, "bilinear"),
    ({"smooth": -0.1}, "smooth"),
    ({"smooth": 1.0}, "smooth"),
    ({"smooth": float("nan")}, "smooth"),
    ({"smooth": "a lot"}, "smooth"),
]


@every_method
@pytest.mark.parametrize(("settings", "word"), SHARED_SETTINGS, ids=lambda v: str(v))
def test_shared_settings(name: str, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        make_method(name, **settings)
    assert str(caught.value).startswith("Expected ")


OWN_SETTINGS: list[tuple[str, dict[str, Any], str]] = [
    ("RISE", {"num_masks": 0}, "num_masks"),
    ("RISE", {"num_masks": -4}, "num_masks"),
    ("RISE", {"num_cells": 0}, "num_cells"),
    ("RISE", {"p": 0.0}, "p"),
    ("RISE", {"p": 1.0}, "p"),
    ("RISE", {"batch_size": 0}, "batch_size"),
    ("ExtremalPerturbation", {"areas": ()}, "area"),
    ("ExtremalPerturbation", {"areas": (0.0,)}, "area"),
    ("ExtremalPerturbation", {"areas": (1.5,)}, "area"),
    ("ExtremalPerturbation", {"areas": (0.2, 0.1)}, "area"),
    ("ExtremalPerturbation", {"areas": (0.1, 0.1)}, "area"),
    ("ExtremalPerturbation", {"max_iter": 0}, "max_iter"),
    ("ExtremalPerturbation", {"num_levels": 0}, "num_levels"),
    ("ExtremalPerturbation", {"step": 0}, "step"),
    ("ExtremalPerturbation", {"sigma": -1}, "sigma"),
    ("ExtremalPerturbation", {"perturbation": "noise"}, "perturbation"),
    ("ExtremalPerturbation", {"variant": "both"}, "variant"),
]


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [row for row in OWN_SETTINGS if row[0] in METHODS],
    ids=lambda v: str(v),
)
def test_settings_of_one_method(name: str, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        make_method(name, **settings)
    assert str(caught.value).startswith("Expected ")


def test_areas_may_come_as_a_list() -> None:
    # TorchRay's examples write a list, which a frozen value cannot keep.
    if "ExtremalPerturbation" in METHODS:
        method = make_method("ExtremalPerturbation", areas=[0.12])
        assert method == make_method("ExtremalPerturbation", areas=(0.12,))
        assert isinstance(hash(method), int)
