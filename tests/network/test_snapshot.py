"""What a model keeps for itself is, after an explanation, what it was."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from every_attribute import everything
from stateful_models import KINDS, Attribute, CountsInAFile, Guarded, RunningGenerator, Stateful
from tiny_models import in_training, make_images, make_model
from torch import Tensor, nn
from traces import bits, differences, leaves_no_trace

from lightning_saliency.attribution import Gradient
from lightning_saliency.attribution.from_function import FromFunction
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.network.isolation import tensors
from lightning_saliency.network.isolation.repeatability import unrepeatable, warn_if_unrepeatable
from lightning_saliency.network.isolation.undisturbed import undisturbed

IMAGES = make_images()
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@every_kind
def test_a_pass_leaves_no_trace(kind: type[Stateful]) -> None:
    model = in_training(kind())
    before = everything(model)
    with leaves_no_trace(model):
        with undisturbed(model):
            model(IMAGES)
            assert differences(before, everything(model)) != []
        assert differences(before, everything(model)) == []


@every_kind
def test_nor_does_one_that_ends_in_an_exception(kind: type[Stateful]) -> None:
    model = in_training(kind())
    before = everything(model)
    with leaves_no_trace(model), pytest.raises(ArithmeticError), undisturbed(model):  # noqa: PT012
        model(IMAGES)
        raise ArithmeticError
    assert differences(before, everything(model)) == []


@every_kind
def test_maps_inside_one_context_do_not_depend_on_one_another(kind: type[Stateful]) -> None:
    model = in_training(kind())
    before = everything(model)
    wanted = bits(Gradient()(model, IMAGES, 1))
    with undisturbed(model):
        assert [bits(Gradient()(model, IMAGES, 1)) for _ in range(2)] == [wanted] * 2
    assert differences(before, everything(model)) == []


@every_kind
def test_answers_are_repeatable(kind: type[Stateful]) -> None:
    model = kind()
    assert unrepeatable(model, lambda: model(IMAGES)) == ""


def test_what_is_set_between_inner_contexts_stays_until_the_outer_one_ends() -> None:
    model = in_training(Attribute())
    before = everything(model)
    with undisturbed(model):
        model.calls = 5
        model.inner.head.weight.data.mul_(2)
        with torch.no_grad():
            model.inner.head.bias.add_(1)
        handle = model.register_forward_hook(lambda _m, _i, output: output * 3)
        wanted = bits(model(IMAGES))
        model.calls = 5
        for _ in range(2):
            with undisturbed(model):
                assert bits(model(IMAGES)) == wanted
            assert model.calls == 5
        assert handle.id in model._forward_hooks
    assert differences(before, everything(model)) == []


def test_parts_and_copies_inside_a_context_of_the_whole() -> None:
    model = in_training(Attribute())
    before = everything(model)
    with undisturbed(model):
        other = copy.deepcopy(model)
        for each in (model.inner, other):
            inner = everything(each)
            Gradient()(each, IMAGES, 1)
            assert differences(inner, everything(each)) == []
        other.calls = 7
        with torch.no_grad():
            other.inner.head.weight.fill_(0)
    assert other.calls == 7
    assert not other.inner.head.weight.any()
    assert differences(before, everything(model)) == []


def test_models_can_be_copied_and_stored_while_they_are_explained() -> None:
    model = make_model()
    wanted = bits(model(IMAGES))
    with undisturbed(model):
        stored = io.BytesIO()
        torch.save(model, stored)
        others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model)]
    for other in (*others[:2], torch.load(io.BytesIO(stored.getvalue()), weights_only=False)):
        assert type(other.head._parameters) is dict
        assert bits(other(IMAGES)) == wanted
        assert other.head.weight is not model.head.weight


def test_weights_that_are_only_read_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    values = tensors.TensorValues
    monkeypatch.setattr(
        tensors,
        "TensorValues",
        lambda some: copied.extend(t.numel() for t in some.values()) or values(some),
    )
    model = make_model()
    buffers = sum(buffer.numel() for buffer in model.buffers())
    Gradient()(model, IMAGES, 1)
    assert sum(copied) == buffers
    copied.clear()
    with undisturbed(model):
        assert model.head.weight is not None
    assert sum(copied) == buffers + model.head.weight.numel() + model.head.bias.numel()


WAYS: dict[str, Callable[[nn.Module], object]] = {
    "attribute": lambda model: model.head.weight,
    "parameters()": lambda model: list(model.parameters()),
    "named_parameters()": lambda model: dict(model.named_parameters()),
    "state_dict()": lambda model: model.state_dict(),
    "get_parameter()": lambda model: model.get_parameter("head.weight"),
    "table": lambda model: model.head._parameters["weight"],
    "get": lambda model: model.head._parameters.get("weight"),
    "values": lambda model: list(model.head._parameters.values()),
    "dict()": lambda model: dict(model.head._parameters),
    "stars": lambda model: {**model.head._parameters},
    "union": lambda model: model.head._parameters | {},
    "copy": lambda model: model.head._parameters.copy(),
    "pop": lambda model: model.head._parameters.pop("weight"),
    "getattr": lambda model: getattr(model.head, "weight"),  # noqa: B009
    "vars": lambda model: vars(model.head)["_parameters"]["weight"],
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_a_weight_is_seen(way: str) -> None:
    model = in_training(make_model())
    with leaves_no_trace(model), undisturbed(model):
        found = WAYS[way](model)
        weights = found if isinstance(found, list) else [found]
        weights = [w for w in weights for w in (w.values() if isinstance(w, dict) else [w])]
        for weight in weights:
            weight.data.mul_(2)


# --- what a user's method does ----------------------------------------------------------------


def _scale_and_raise(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    raise ArithmeticError("half-way")


def _hook_weights(model: nn.Module) -> None:
    weight = model.head.weight.requires_grad_()
    weight.register_hook(lambda gradient: gradient * 0)
    weight.register_post_accumulate_grad_hook(lambda _: None)


def _global_hook(_: nn.Module) -> None:
    nn.modules.module.register_module_forward_hook(lambda *_: None)
    nn.modules.module.register_module_full_backward_hook(lambda *_: None)


def _sharpen(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.BatchNorm2d):
            module.momentum, module.track_running_stats = None, False
            module.reset_running_stats()


def _tensor_attributes(model: nn.Module) -> None:
    model.head.weight.note = "mine"  # type: ignore[union-attr]
    model.head.weight.grad = torch.ones(5, 12)


METHODS: dict[str, Callable[[nn.Module], object]] = {
    "scales weights and raises": _scale_and_raise,
    "double()": lambda model: model.double(),
    "half()": lambda model: model.half(),
    "to_empty()": lambda model: model.to_empty(device="cpu"),
    "channels last": lambda model: model.to(memory_format=torch.channels_last),
    "loads another state": lambda model: model.load_state_dict(
        {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    ),
    "resets layers": lambda model: model.apply(
        lambda module: getattr(module, "reset_parameters", bool)()
    ),
    "an optimizer's step": lambda model: torch.optim.SGD(
        model.parameters(), 0.1, weight_decay=1
    ).step(),
    "settings of layers": _sharpen,
    "train() and hooks": lambda model: model.train().register_forward_hook(lambda *_: None),
    "hooks on weights": _hook_weights,
    "attributes of weights": _tensor_attributes,
    "global hooks": _global_hook,
    "threads": lambda _: torch.set_num_threads(torch.get_num_threads() + 1),
    "determinism": lambda _: torch.use_deterministic_algorithms(True, warn_only=True),
    "default dtype": lambda _: torch.set_default_dtype(torch.float64),
    "default device": lambda _: torch.set_default_device("meta"),
    "cuDNN": lambda _: setattr(torch.backends.cudnn, "benchmark", True),
    "cuDNN off": lambda _: setattr(torch.backends.cudnn, "enabled", False),
    "matmul precision": lambda _: torch.set_float32_matmul_precision("medium"),
    "attention kernels": lambda _: torch.backends.cuda.enable_math_sdp(False),
    "grad mode": lambda _: torch.set_grad_enabled(False),
    "anomaly detection": lambda _: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "errors of NumPy": lambda _: np.seterr(all="ignore"),
    "warnings": lambda _: warnings.simplefilter("always"),
    "global streams": lambda _: (torch.manual_seed(1), np.random.seed(1)),
    "deletes a layer": lambda model: delattr(model, "head"),
    "puts layers in": lambda model: model.features.append(nn.Dropout()),
    "another forward": lambda model: setattr(model, "forward", None),
    "another class": lambda model: setattr(model.head, "__class__", nn.Bilinear),
    "prunes": lambda model: torch.nn.utils.prune.random_unstructured(model.head, "weight", 0.5),
    "parametrizes": lambda model: torch.nn.utils.parametrizations.orthogonal(model.head),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.parametrize("case", METHODS)
def test_what_a_users_method_does_is_undone(case: str) -> None:
    def careless(model: nn.Module, images: Tensor, _: object) -> Tensor:
        METHODS[case](model)
        return torch.ones(len(images), 1, 4, 4, dtype=torch.float32, device="cpu")

    model = in_training(make_model())
    before, cudnn = everything(model), torch.backends.cudnn.enabled
    attention = torch.backends.cuda.math_sdp_enabled()
    with leaves_no_trace(model):
        try:
            FromFunction(careless)(model, IMAGES, 1)
        except ArithmeticError:
            assert case == "scales weights and raises"
    assert differences(before, everything(model)) == []
    assert torch.backends.cudnn.enabled is cudnn
    assert torch.backends.cuda.math_sdp_enabled() is attention
    assert not hasattr(model.head.weight, "note")


def test_weights_that_a_users_method_has_had_before_are_kept() -> None:
    model = in_training(make_model())
    weights, calls = list(model.parameters()), [0]

    def scale(_model: nn.Module, images: Tensor, _target: object) -> Tensor:
        calls[0] += 1
        for weight in weights:
            weight.data.mul_(2)
        return images[:, :1]

    with leaves_no_trace(model):
        FromFunction(scale)(model, IMAGES, 1)
        with undisturbed(model):
            FromFunction(scale)(model, IMAGES, 1)
    # What the method keeps for itself is the user's.
    assert calls == [2]


# --- what cannot be put back ------------------------------------------------------------------


def test_a_running_generator_is_named() -> None:
    model = nn.Sequential(RunningGenerator())
    problem = unrepeatable(model, lambda: model(IMAGES))
    assert "two passes of Sequential" in problem
    assert "'0.stream' (generator)" in problem
    with pytest.warns(SaliencyWarning, match="cannot be put back"):
        warn_if_unrepeatable(model, lambda: model(IMAGES))


def test_what_other_threads_work_with_is_left_alone_and_named() -> None:
    model = Guarded()
    assert "'shared' (SimpleNamespace)" in unrepeatable(model, lambda: model(IMAGES))
    assert model.shared.calls == 2


def test_what_is_not_reached_is_found_too(tmp_path: Path) -> None:
    model = CountsInAFile(tmp_path / "file")
    assert "Look for files" in unrepeatable(model, lambda: {"logits": model(IMAGES)})
    # Also inside of another context, which would hide what only it puts back.
    with undisturbed(model):
        assert unrepeatable(model, lambda: [model(IMAGES)]) != ""


def test_shapes_and_numbers_that_are_none_are_compared() -> None:
    model, shapes = make_model(), iter([1, 2])
    assert "in shape" in unrepeatable(model, lambda: model(IMAGES[: next(shapes)]))
    assert unrepeatable(model, lambda: model(IMAGES * torch.nan)) == ""
    assert unrepeatable(model, lambda: SimpleNamespace(logits=model(IMAGES))) == ""


def test_weights_that_were_written_to_unseen_are_named_and_kept_the_next_time() -> None:
    class Elsewhere(Guarded):
        def step(self, x: Tensor) -> float:
            with torch.no_grad():
                self.shared.weight.mul_(2)
            return 0.0

    model = Elsewhere()
    model.shared.weight = model.inner.head.weight
    with pytest.warns(SaliencyWarning, match=r"could not put back: .*'inner\.head\.weight'"):
        Gradient()(model, IMAGES, 1)
    with leaves_no_trace(model):
        Gradient()(model, IMAGES, 1)


def test_large_tensors_are_not_copied_but_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_MOST_BYTES_OF_ONE", 100)
    model = make_model()
    model.bank = torch.zeros(1000)
    bank, pointer = model.bank, model.bank.data_ptr()
    with undisturbed(model):
        model.bank = torch.ones(3)
        bank.data = torch.ones(3)
    assert model.bank is bank
    assert bank.data_ptr() == pointer
    with pytest.warns(SaliencyWarning, match="'bank'"), undisturbed(model):
        model.bank.add_(1)


def test_memory_that_was_freed_comes_back() -> None:
    model = in_training(make_model())
    wanted = bits(Gradient()(model, IMAGES, 1))
    with leaves_no_trace(model), undisturbed(model):
        for _ in range(2):
            with undisturbed(model):
                model.hidden[2].weight.untyped_storage().resize_(0)
            assert bits(Gradient()(model, IMAGES, 1)) == wanted
        model.head.weight.untyped_storage().resize_(0)


def test_large_containers_are_kept_but_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    model.files = [[i] for i in range(10_001)]
    with undisturbed(model):
        model.files.append([0])
        model.files[0].append(1)
    assert len(model.files) == 10_001
    assert model.files[0] == [0, 1]


def test_nothing_is_held_on_to() -> None:
    import gc
    import weakref

    model = make_model()
    model.note = note = nn.Parameter(torch.ones(2))
    Gradient()(model, IMAGES, 1)
    gone = weakref.ref(note)
    del model.note, note, model
    gc.collect()
    assert gone() is None


def test_memory_is_none_that_stays(recwarn: Any) -> None:
    model = in_training(make_model())
    for _ in range(3):
        Gradient()(model, IMAGES, 1)
    assert type(model.head._parameters) is dict
    assert [w for w in recwarn if issubclass(w.category, SaliencyWarning)] == []
