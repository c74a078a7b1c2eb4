"""Copies that may be spoilt, and random weights for their layers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from tiny_models import MODELS, in_training, make_images, make_model
from torch import Tensor, nn
from torchvision.models import VisionTransformer, resnet18
from traces import bits, leaves_no_trace, module_state

from lightning_saliency.errors import ModelError
from lightning_saliency.network.forward_view import ForwardView
from lightning_saliency.network.random_weights import (
    check_copyable,
    copy_of,
    layers_with_weights,
    preserved_weights,
    randomize,
)

IMAGES = make_images(2, (16, 16))
every_kind = pytest.mark.parametrize("kind", MODELS)


def weights(model: nn.Module) -> dict[str, str]:
    """The bits of every weight and buffer."""
    return {name: bits(tensor) for name, tensor in model.state_dict().items()}


@every_kind
def test_a_copy_shares_nothing_and_computes_the_same(kind: str) -> None:
    model = in_training(make_model(kind))
    with leaves_no_trace(model), torch.inference_mode():
        copy = copy_of(model)
    assert weights(copy) == weights(model)
    mine = {p.data_ptr() for p in (*model.parameters(), *model.buffers())}
    assert not mine & {p.data_ptr() for p in (*copy.parameters(), *copy.buffers())}
    assert not any(p.is_inference() for p in copy.parameters())
    assert torch.equal(model.eval()(IMAGES), copy.eval()(IMAGES))


def test_a_view_is_copied_with_what_it_is_a_view_of() -> None:
    model = make_model()
    view = ForwardView(model, lambda module, images: 2 * module(images))
    copy = copy_of(view)
    assert torch.equal(copy(IMAGES), view(IMAGES))
    randomize(copy, layers_with_weights(copy, IMAGES), 0)
    assert not torch.equal(copy(IMAGES), view(IMAGES))
    assert weights(model) == weights(make_model())


class _Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.lock = make_model(), threading.Lock()


class _KeepsWhatItComputed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.scaled = self.weight * 2


@pytest.mark.parametrize("make", [_Locked, _KeepsWhatItComputed])
def test_what_cannot_be_copied(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ModelError, match=f"can be copied with copy.deepcopy, but {make.__name__}"):
        copy_of(make())


def test_lazy_layers() -> None:
    with pytest.raises(ModelError, match="'1' waits for its first input"):
        copy_of(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))


@every_kind
def test_layers_come_in_the_order_they_run_in(kind: str) -> None:
    model = in_training(make_model(kind))
    with leaves_no_trace(model, IMAGES):
        names = layers_with_weights(model, IMAGES)
    wanted = {
        "vgg": "features.0 features.1 features.4 features.5 hidden.2 head",
        "residual": "stem features.0.conv1 features.0.bn1 features.0.conv2 features.0.bn2 "
        "features.1.conv1 features.1.bn1 features.1.conv2 features.1.bn2 head",
        "functional": "stem features branch head",
    }
    assert names == wanted[kind].split()


class _Reversed(nn.Module):
    """Its layers are made in another order than they run in, one never runs, one runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 5)
        self.unused = nn.Linear(2, 2)
        self.norm = nn.BatchNorm2d(4, affine=False)
        self.conv = nn.Conv2d(4, 4, 1)
        self.stem = nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.arange(4.0).view(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.norm(self.conv(self.stem(x) * self.scale)))
        return self.head(x.mean((2, 3)))


def test_order_of_running_and_not_of_making() -> None:
    model = _Reversed().eval()
    assert layers_with_weights(model, IMAGES) == ["", "unused", "stem", "conv", "norm", "head"]


def test_transformers() -> None:
    model = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4).eval()
    names = layers_with_weights(model, torch.zeros(1, 3, 32, 32))
    assert names[:3] == ["", "conv_proj", "encoder"]
    assert names[-1] == "heads.head"
    # Attention uses the weights of this layer without running it.
    attention = "encoder.layers.encoder_layer_1.self_attention"
    place = names.index(attention)
    assert names[place + 1] == f"{attention}.out_proj"
    assert names[place + 2] == "encoder.layers.encoder_layer_1.ln_2"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    randomize(model, names, 0)
    # A single value cannot be shuffled; everything else is another.
    same = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert same == []


@every_kind
def test_weights_are_those_of_a_new_layer(kind: str) -> None:
    model = make_model(kind)
    before = weights(model)
    with leaves_no_trace(make_model(kind)):
        randomize(model, layers_with_weights(model, IMAGES), 0)
    after = weights(model)
    same = [n for n in before if before[n] == after[n] and "num_batches" not in n]
    # BatchNorm was made with weight 1 and bias 0, and nothing has trained it.
    assert [
        name
        for name in same
        if not name.startswith(("features.1.", "features.5.")) and "bn" not in name
    ] == []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.running_mean == 0).all()
            assert (module.running_var == 1).all()
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = module.weight.detach()
            bound = 1 / weight[0].numel() ** 0.5
            assert weight.abs().max() <= bound
            assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.5)


def test_a_layer_gets_the_same_weights_alone_and_with_others() -> None:
    one, other = make_model(), make_model()
    randomize(one, ["head"], 3)
    randomize(other, layers_with_weights(other, IMAGES), 3)
    assert torch.equal(one.head.weight, other.head.weight)
    assert torch.equal(one.features[0].weight, make_model().features[0].weight)
    third = make_model()
    randomize(third, ["head"], 4)
    assert not torch.equal(one.head.weight, third.head.weight)


def test_other_weights_are_shuffled() -> None:
    model = _Reversed()
    randomize(model, [""], 0)
    assert sorted(model.scale.flatten().tolist()) == [0, 1, 2, 3]
    assert model.scale.flatten().tolist() != [0, 1, 2, 3]
    # Only its own weights: the layers inside it have turns of their own.
    assert torch.equal(model.conv.bias, copy_of(model).conv.bias)


class _ResetsAll(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.weight = nn.Parameter(torch.zeros(7))

    def reset_parameters(self, scale: float = 1.0) -> None:
        self.inner.reset_parameters()
        nn.init.normal_(self.weight, std=scale)


def test_a_reset_that_goes_through_other_layers_changes_its_own_alone() -> None:
    model = nn.Sequential(_ResetsAll())
    inner = model[0].inner.weight.clone()
    randomize(model, ["0"], 0)
    assert torch.equal(model[0].inner.weight, inner)
    assert (model[0].weight != 0).all()


class _NeedsMore(nn.Linear):
    def reset_parameters(self, gain: float) -> None:  # type: ignore[override]
        raise AssertionError("not called")


class _Broken(nn.Linear):
    def __init__(self, *args: Any) -> None:
        self.ready = False
        super().__init__(*args)
        self.ready = True

    def reset_parameters(self) -> None:
        if self.ready:
            raise ArithmeticError("no")
        super().reset_parameters()


def test_unusual_resets() -> None:
    layer = nn.Linear(3, 3)
    layer.__class__ = _NeedsMore
    before = layer.weight.clone()
    randomize(nn.Sequential(layer), ["0"], 0)
    assert sorted(layer.weight.flatten().tolist()) == sorted(before.flatten().tolist())
    assert not torch.equal(layer.weight, before)
    with pytest.raises(ModelError, match=r"layer '0' \(_Broken\).*ArithmeticError: no"):
        randomize(nn.Sequential(_Broken(3, 3)), ["0"], 0)


def test_parametrized_and_tied_weights() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
    model = nn.Sequential(nn.Flatten(), layer, nn.Linear(6, 6)).eval()
    model[2].weight = model[2].weight
    images = make_images(1, (1, 2))
    names = layers_with_weights(model, images)
    copy = copy_of(model)
    randomize(copy, names, 0)
    assert not torch.allclose(copy[1].weight, model[1].weight)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    spoilt = copy_of(tied)
    randomize(spoilt, ["0", "1"], 0)
    assert spoilt[0].weight is spoilt[1].weight
    assert not torch.equal(spoilt[0].weight, tied[0].weight)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_compiled_scripted_and_half() -> None:
    inside = make_model()
    names = layers_with_weights(torch.compile(inside, backend="eager"), IMAGES)
    assert names == layers_with_weights(inside, IMAGES)
    scripted = torch.jit.script(make_model())
    copy = copy_of(scripted)
    randomize(copy, layers_with_weights(copy, IMAGES), 0)
    assert not torch.allclose(copy(IMAGES), scripted(IMAGES))
    assert torch.equal(scripted(IMAGES), make_model()(IMAGES))
    half = make_model(dtype=torch.bfloat16)
    randomize(half, ["head"], 0)
    assert half.head.weight.dtype == torch.bfloat16


def test_weights_are_put_back() -> None:
    model = in_training(make_model())
    before = module_state(model)
    with suppress(ArithmeticError), preserved_weights(model):
        randomize(model, layers_with_weights(model, IMAGES), 0)
        assert module_state(model) != before
        raise ArithmeticError
    assert module_state(model) == before


def test_large_model_in_training_is_left_alone() -> None:
    model = resnet18(num_classes=3).train()
    images = make_images(1, (32, 32))
    with leaves_no_trace(model, images):
        copy = copy_of(model)
        names = layers_with_weights(copy, images)
        randomize(copy, names, 0)
    assert len(names) == 41
    assert names[:3] == ["conv1", "bn1", "layer1.0.conv1"]
    check_copyable(model)
