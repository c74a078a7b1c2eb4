"""What every attribution method promises; a method enrols by being exported."""

import dataclasses
import gc
import pickle
import random
import re
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contract import METHODS, make_method
from tally import Tally
from tiny_models import CLASSES, MODELS, Returns, in_training, make_images, make_model
from torch import Tensor, nn
from traces import bits, leaves_no_trace

from lightning_saliency import attribution
from lightning_saliency.errors import InputError

every_method = pytest.mark.parametrize("name", METHODS)
every_model = pytest.mark.parametrize("kind", MODELS)


def test_methods_are_enrolled() -> None:
    assert {"Gradient", "GradCAM"} <= set(METHODS)


# --- the maps ---------------------------------------------------------------------------------


@every_method
@every_model
def test_map_is_one_finite_picture_for_each_image(name: str, kind: str) -> None:
    images = make_images(2, (16, 20))
    saliency = make_method(name)(make_model(kind), images, 1)
    assert saliency.shape == (2, 1, 16, 20)
    assert saliency.dtype == torch.float32
    assert saliency.device == images.device
    assert torch.isfinite(saliency).all()
    assert saliency.std() > 0


@every_method
@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtype(name: str, dtype: torch.dtype, wanted: torch.dtype) -> None:
    saliency = make_method(name)(make_model(dtype=dtype), make_images(dtype=dtype), 1)
    assert saliency.dtype == wanted
    assert torch.isfinite(saliency).all()


@every_method
@pytest.mark.parametrize("size", [(13, 24), (24, 13), (8, 8)])
def test_any_size_and_aspect_ratio(name: str, size: tuple[int, int]) -> None:
    saliency = make_method(name)(make_model(), make_images(2, size), 1)
    assert saliency.shape == (2, 1, *size)


@every_method
@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(name: str, channels: int) -> None:
    model, images = make_model(channels=channels), make_images(2, channels=channels)
    assert make_method(name)(model, images, 1).shape == (2, 1, 16, 20)


@every_method
@every_model
def test_batch_equals_one_at_a_time(name: str, kind: str) -> None:
    # In float64, so that the order of summation cannot be taken for a dependence on the batch.
    model, images = make_model(kind, dtype=torch.float64), make_images(3, dtype=torch.float64)
    method, targets = make_method(name), [1, 4, 1]
    together = method(model, images, targets)
    for i, target in enumerate(targets):
        alone = method(model, images[i : i + 1], target)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-6, atol=1e-9)


@every_method
def test_deterministic(name: str) -> None:
    model, images, method = make_model(), make_images(), make_method(name)
    first = method(model, images, [1, 2])
    torch.rand(3), np.random.rand(3), random.random()
    assert bits(method(model, images, [1, 2])) == bits(first)


@every_method
def test_result_is_free_of_the_graph(name: str) -> None:
    saliency = make_method(name)(make_model(), make_images(), 1)
    assert not saliency.requires_grad
    assert saliency.grad_fn is None
    assert not saliency.is_inference()


# --- targets ----------------------------------------------------------------------------------


@every_method
def test_forms_of_target(name: str) -> None:
    model, images, method = make_model(), make_images(3), make_method(name)
    wanted = method(model, images, [1, 0, 3])
    for target in ((1, 0, 3), torch.tensor([1, 0, 3]), torch.tensor([1, 0, 3], dtype=torch.uint8)):
        assert bits(method(model, images, target)) == bits(wanted)
    same = method(model, images, [2, 2, 2])
    for one in (2, torch.tensor(2), np.int64(2)):
        assert bits(method(model, images, one)) == bits(same)


@every_method
def test_predicted_target_is_the_largest_logit(name: str) -> None:
    model, images, method = make_model(), make_images(4), make_method(name)
    predicted = model(images).argmax(1)
    assert bits(method(model, images, "predicted")) == bits(method(model, images, predicted))


@every_method
def test_targets_matter(name: str) -> None:
    model, images, method = make_model(), make_images(1), make_method(name)
    maps = {bits(method(model, images, target)) for target in range(CLASSES)}
    assert len(maps) > 1


@every_method
def test_callable_target(name: str) -> None:
    def margin(output: Tensor) -> Tensor:
        return output[:, 1] - output[:, 2]

    saliency = make_method(name)(make_model(), make_images(), margin)
    assert saliency.shape == (2, 1, 16, 20)
    assert torch.isfinite(saliency).all()


# --- the state that the caller is in ----------------------------------------------------------

SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "anomaly_detection": lambda: torch.autograd.set_detect_anomaly(True),
    "plain": nullcontext,
}


@every_method
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
def test_surroundings_change_nothing(name: str, surroundings: str) -> None:
    model, images, method = make_model(), make_images(), make_method(name)
    wanted = method(model, images, [1, 2])
    in_training(model)
    with SURROUNDINGS[surroundings](), leaves_no_trace(model, images):
        # In Trainer.validate the batch and its labels are made under inference mode.
        came = method(model, images.clone(), torch.tensor([1, 2]))
    assert bits(came) == bits(wanted)


@every_method
def test_frozen_model(name: str) -> None:
    model, images, method = make_model(), make_images(), make_method(name)
    wanted = method(model, images, 1)
    model.requires_grad_(False)
    with leaves_no_trace(model, images):
        assert bits(method(model, images, 1)) == bits(wanted)


@every_method
def test_image_that_is_part_of_a_graph(name: str) -> None:
    model, images, method = make_model(), make_images(), make_method(name)
    wanted = method(model, images, 1)
    leaf = images.clone().requires_grad_()
    assert bits(method(model, leaf * 1, 1)) == bits(wanted)
    assert bits(method(model, leaf, 1)) == bits(wanted)
    assert leaf.grad is None


# --- models and images of other kinds ---------------------------------------------------------


FORMS: dict[str, Callable[[Tensor], object]] = {
    "tuple": lambda y: (y, None),
    "dictionary": lambda y: {"logits": y},
    "object": lambda y: SimpleNamespace(logits=y),
    "score maps": lambda y: y[:, :, None, None].expand(-1, -1, 2, 3),
}


@every_method
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_output(name: str, form: str) -> None:
    images, method = make_images(), make_method(name)
    wanted = method(make_model(), images, [1, 2])
    came = method(Returns(FORMS[form]), images, [1, 2])
    torch.testing.assert_close(came, wanted, rtol=1e-4, atol=1e-6)


@every_method
@pytest.mark.parametrize("shape", ["(N,)", "(N, 1)"])
def test_one_unit(name: str, shape: str) -> None:
    model = Returns(lambda y: y[:, 1] if shape == "(N,)" else y[:, 1:2])
    images, method = make_images(), make_method(name)
    for target in (1, 0, [0, 1], "predicted"):
        saliency = method(model, images, target)
        assert saliency.shape == (2, 1, 16, 20)
        assert torch.isfinite(saliency).all()


@every_method
def test_memory_format_changes_nothing(name: str) -> None:
    model, images, method = make_model(), make_images(), make_method(name)
    wanted = method(model, images, 1)
    wide = make_images(2, (16, 40))
    wide[:, :, :, ::2] = images
    channels_last = images.contiguous(memory_format=torch.channels_last)
    # The iterations of a search for masks enlarge the rounding of the first; masks are in [0, 1].
    atol = 1e-4 if name == "ExtremalPerturbation" else 1e-6
    for same in (channels_last, wide[:, :, :, ::2], images.permute(0, 1, 3, 2).contiguous().mT):
        torch.testing.assert_close(method(model, same, 1), wanted, rtol=1e-4, atol=atol)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(method(model, channels_last, 1), wanted, rtol=1e-4, atol=atol)


@every_method
@pytest.mark.filterwarnings("ignore::lightning_saliency.errors.SaliencyWarning")
@pytest.mark.parametrize("case", ["black image", "constant image", "dead units", "blind"])
def test_nothing_to_see(name: str, case: str) -> None:
    model, images = make_model(), make_images()
    if case == "black image":
        images.zero_()
    elif case == "constant image":
        images.fill_(0.7)
    elif case == "dead units":
        nn.init.constant_(model.hidden[2].bias, -1e3)
    else:
        nn.init.zeros_(model.head.weight)
    saliency = make_method(name)(model, images, 1)
    assert saliency.shape == (2, 1, 16, 20)
    assert torch.isfinite(saliency).all()


@every_method
def test_compiled_model(name: str) -> None:
    images, method = make_images(), make_method(name)
    wanted = method(make_model(), images, 1)
    torch._dynamo.reset()
    model = torch.compile(make_model(), backend="eager")
    model(images)
    with leaves_no_trace(model, images):
        assert bits(method(model, images, 1)) == bits(wanted)
    torch._dynamo.reset()


@every_method
def test_data_parallel(name: str) -> None:
    images, method = make_images(), make_method(name)
    wanted = method(make_model(), images, 1)
    assert bits(method(nn.DataParallel(make_model()), images, 1)) == bits(wanted)


# --- traces -----------------------------------------------------------------------------------


@every_method
@every_model
def test_leaves_no_trace(name: str, kind: str) -> None:
    model, images, targets = in_training(make_model(kind)), make_images(), torch.tensor([1, 2])
    with leaves_no_trace(model, images, targets):
        make_method(name)(model, images, targets)


class Restless(nn.Module):
    """Does what a model should not: writes into its input, counts in a buffer, draws numbers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.features = model.features
        self.model = model
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("replaced", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.replaced = self.replaced + 1
        torch.rand(2), np.random.rand(), random.random()
        x.mul_(2).sub_(0.1)
        return self.model(x)


@every_method
def test_model_that_writes_into_its_input_and_buffers(name: str) -> None:
    model, images = make_model(), make_images()
    method = make_method(name)
    restless = in_training(Restless(model))
    with leaves_no_trace(restless, images):
        saliency = method(restless, images, 1)
    assert saliency.shape == (2, 1, 16, 20)
    assert torch.isfinite(saliency).all()


def _explode(gradient: Tensor) -> Tensor:
    raise ArithmeticError("in the backward pass")


class Fragile(nn.Module):
    """Counts its calls outside itself and raises in one of them, after its features ran."""

    def __init__(self, model: nn.Module, fail_at: int | None) -> None:
        super().__init__()
        self.features, self.pool, self.hidden = model.features, model.pool, model.hidden
        self.head = model.head
        self.fail_at = fail_at
        self.calls = Tally()

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        x = self.features(x)
        if len(self.calls) == self.fail_at:
            raise ArithmeticError("in the model")
        return self.head(self.hidden(self.pool(x)))


@every_method
@pytest.mark.parametrize("which", ["first", "middle", "last"])
def test_leaves_no_trace_after_an_exception_in_the_model(name: str, which: str) -> None:
    images, method = make_images(), make_method(name)
    unharmed = Fragile(make_model(), None)
    method(unharmed, images, 1)
    calls = len(unharmed.calls)
    fail_at = {"first": 1, "middle": (calls + 1) // 2, "last": calls}[which]
    model = in_training(Fragile(make_model(), fail_at))
    with (
        leaves_no_trace(model, images),
        pytest.raises(ArithmeticError, match="in the model"),
    ):
        method(model, images, 1)


class _Tripwire(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        if x.requires_grad:
            x.register_hook(_explode)
        return x


@every_method
def test_leaves_no_trace_after_an_exception_in_the_backward_pass(name: str) -> None:
    model, images = make_model(), make_images()
    model.hidden.append(_Tripwire())
    in_training(model)
    with leaves_no_trace(model, images):
        try:
            make_method(name)(model, images, 1)
        except ArithmeticError:
            return
    # Only a method that takes no gradient can come through.
    assert not METHODS[name].needs_gradient


@every_method
def test_leaves_no_trace_after_a_wrong_target(name: str) -> None:
    model, images = in_training(make_model()), make_images()
    with leaves_no_trace(model, images), pytest.raises(InputError, match="from 0 to 4"):
        make_method(name)(model, images, CLASSES)


@pytest.fixture
def old_objects_aside() -> Iterator[None]:
    """Look for garbage only among what the test makes, which is much faster."""
    gc.freeze()
    yield
    gc.unfreeze()


@every_method
@pytest.mark.usefixtures("old_objects_aside")
def test_model_is_not_kept_alive(name: str) -> None:
    model, images, method = make_model(), make_images(), make_method(name)
    saliency = method(model, images, 1)
    alive = weakref.ref(model), weakref.ref(model.head.weight)
    del model
    gc.collect()
    assert [ref() for ref in alive] == [None, None]
    assert saliency.shape == (2, 1, 16, 20)


@every_method
def test_nothing_piles_up(name: str) -> None:
    model, images, method = make_model(), make_images(), make_method(name)
    method(model, images, 1)
    gc.freeze()
    try:
        method(model, images, 1)
        gc.collect()
        kinds = [type(thing) for thing in gc.get_objects()]
    finally:
        gc.unfreeze()
    assert [kind for kind in kinds if issubclass(kind, (Tensor, nn.Module))] == []


# --- the dataclass ----------------------------------------------------------------------------


@every_method
def test_is_a_frozen_value(name: str) -> None:
    method = make_method(name)
    assert dataclasses.is_dataclass(method)
    assert method == make_method(name)
    assert method != make_method(name, smooth=0.25)
    assert hash(method) == hash(make_method(name))
    assert pickle.loads(pickle.dumps(method)) == method
    field = dataclasses.fields(method)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(method, field, None)


@every_method
def test_repr_is_the_code_that_makes_it(name: str) -> None:
    method = make_method(name, smooth=0.25)
    assert eval(repr(method), dict(vars(attribution))) == method
    assert " at 0x" not in repr(method)


@every_method
def test_name_is_snake_case_and_its_function_stands_beside_it(name: str) -> None:
    module = METHODS[name].__module__
    spelled_out = re.sub("pp$", "plus_plus", METHODS[name].name)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", spelled_out)
    assert spelled_out.replace("_", "") == name.lower()
    function = getattr(sys.modules[module], spelled_out)
    assert callable(function)
    assert function.__module__ == module
    assert spelled_out in sys.modules[module].__all__


def test_names_are_unique() -> None:
    names = [method.name for method in METHODS.values()]
    assert len(set(names)) == len(names)


@every_method
def test_settings_are_documented_and_have_defaults(name: str) -> None:
    documented = " ".join(cls.__doc__ or "" for cls in METHODS[name].__mro__)
    for field in dataclasses.fields(METHODS[name]):
        assert re.search(rf"\b{field.name}\b", documented), field.name
        has_default = field.default is not dataclasses.MISSING
        assert has_default or field.default_factory is not dataclasses.MISSING, field.name


@every_method
def test_prepare_gives_a_method_that_explains_the_same(name: str) -> None:
    model, images, method = make_model(), make_images(), make_method(name)
    wanted = method(model, images, 1)
    in_training(model)
    with leaves_no_trace(model, images):
        prepared = method.prepare(model, images)
    assert type(prepared) is METHODS[name]
    assert bits(prepared(model, images, 1)) == bits(wanted)


# --- the settings that all share --------------------------------------------------------------


@every_method
def test_resize_to_a_size_of_ones_own(name: str) -> None:
    model, images = make_model(), make_images()
    assert make_method(name, resize=(5, 7))(model, images, 1).shape == (2, 1, 5, 7)
    assert make_method(name, resize=False)(model, images, 1).shape[:2] == (2, 1)


@every_method
def test_smoothing_smooths(name: str) -> None:
    model, images = make_model(), make_images()
    sharp = make_method(name)(model, images, 1)
    smooth = make_method(name, smooth=0.1)(model, images, 1)
    assert smooth.shape == sharp.shape
    assert smooth.diff(dim=3).abs().sum() < sharp.diff(dim=3).abs().sum()
