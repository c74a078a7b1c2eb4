import pytest
import torch
from tiny_models import VGGLike, make_model
from torch import nn

from lightning_saliency.errors import LayerError
from lightning_saliency.network.layers import every_module, find_layer, layer_names


def test_every_module_once() -> None:
    model = make_model()
    model.backbone, model.missing = model.features, None
    found = every_module(model)
    assert len(found) == len(set(found))
    assert set(found) == set(model.modules())


def test_names_are_those_of_named_modules() -> None:
    model = make_model()
    assert layer_names(model) == {name: m for name, m in model.named_modules() if name}


@pytest.mark.parametrize("name", ["features", "features.4", "head"])
def test_finds_by_name(name: str) -> None:
    model = make_model()
    assert find_layer(model, name) is model.get_submodule(name)


def test_layer_under_two_names() -> None:
    model = make_model()
    model.backbone = model.features
    assert find_layer(model, "backbone") is find_layer(model, "features")
    assert find_layer(model, "backbone.4") is model.features[4]


@pytest.mark.parametrize("name", ["features", "_orig_mod.features", "features._orig_mod"])
def test_compiled_model(name: str) -> None:
    model = make_model()
    inner = model.features
    model.features = torch.compile(inner)
    compiled = torch.compile(model)
    # A hook on the inner one would not see what the compiled one puts out.
    assert find_layer(compiled, name) is model.features
    assert find_layer(compiled, f"{name}.4") is inner[4]
    assert set(layer_names(compiled)) == set(layer_names(VGGLike()))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("featuers", ["VGGLike", "'featuers'", "Did you mean", "'features'"]),
        ("features.44", ["'features.4'"]),
        ("net.features", ["'features'"]),
        # The same ending, further away than any spelling mistake.
        ("a.very.long.way.to.the.head", ["Did you mean 'head'?"]),
        ("zzz", ["outermost layers", "'features', 'pool', 'hidden', 'head'"]),
        ("", ["outermost layers"]),
    ],
)
def test_unknown_name(name: str, words: list[str]) -> None:
    with pytest.raises(LayerError) as caught:
        find_layer(make_model(), name)
    assert all(word in str(caught.value) for word in words)


def test_model_without_layers() -> None:
    with pytest.raises(LayerError, match=r"ReLU, but it has no 'a'. It has no layers\."):
        find_layer(nn.ReLU(), "a")
