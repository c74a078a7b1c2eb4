import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tally import Tally
from tiny_models import in_training, make_images, make_model
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils import parametrizations, prune
from traces import bits, leaves_no_trace

from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.errors import LayerError, ModelError
from lightning_saliency.network.isolation.undisturbed import preserved_random_streams, undisturbed

IMAGES = make_images()


class Wrapped(nn.Module):
    """The usual model, with something added by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def explain(model: nn.Module) -> Tensor:
    """Explain while nothing may be left behind."""
    with leaves_no_trace(model, IMAGES):
        return Gradient()(model, IMAGES, 1)


# --- inside -----------------------------------------------------------------------------------


def test_state_inside() -> None:
    model = in_training(make_model())
    with (
        leaves_no_trace(model),
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        undisturbed(model),
    ):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
        leaf = IMAGES.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(leaf).sum(), leaf)
        assert gradient.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
def test_anomaly_detection_does_not_end_a_run_over_an_explanation() -> None:
    model = make_model()
    with torch.autograd.set_detect_anomaly(True), leaves_no_trace(model), undisturbed(model):
        assert not torch.is_anomaly_enabled()
        leaf = torch.zeros(1, requires_grad=True)
        # The derivative of the square root of -1 is not a number.
        (gradient,) = torch.autograd.grad((leaf - 1).sqrt().sum(), leaf)
        assert gradient.isnan().all()


def test_can_be_nested() -> None:
    model = in_training(make_model())
    with leaves_no_trace(model), undisturbed(model):
        with undisturbed(model):
            assert not model.training
        assert not model.training
        assert not model.head.weight.requires_grad


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt, SystemExit])
def test_everything_comes_back_after_any_exception(error: type[BaseException]) -> None:
    model = in_training(make_model())

    def spoil_and_fail() -> None:
        torch.rand(1), np.random.rand(), random.random()
        model.train().requires_grad_(True).zero_grad()
        model(IMAGES).sum().backward()
        model.features.register_forward_hook(lambda *_: None)
        raise error

    with leaves_no_trace(model), pytest.raises(error), undisturbed(model):
        spoil_and_fail()


# --- flags and gradients ----------------------------------------------------------------------


class OwnModes(Wrapped):
    """Keeps its features frozen, as users write it, and notices who calls."""

    def train(self, mode: bool = True) -> "OwnModes":
        raise AssertionError("train() has effects of its own in this class")

    def eval(self) -> "OwnModes":
        raise AssertionError("eval() has effects of its own in this class")


def test_train_and_eval_are_not_called() -> None:
    model = OwnModes()
    model.inner.train()
    explain(model)


def test_shared_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = make_model(), make_model()
            self.other.features[4].weight = self.one.features[4].weight
            self.other.head = self.one.head

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.other(x)

    model = in_training(Tied())
    assert model.other.features[4].weight.grad is not None
    explain(model)
    assert model.other.features[4].weight is model.one.features[4].weight


def test_gradients_of_an_accumulation_survive_what_a_method_does_to_them() -> None:
    model = in_training(make_model())
    held = {name: parameter.grad for name, parameter in model.named_parameters()}
    with leaves_no_trace(model), undisturbed(model):
        model.requires_grad_(True)
        model(IMAGES).sum().backward()
        model.zero_grad()
    assert all(parameter.grad is held[name] for name, parameter in model.named_parameters())


# --- buffers ----------------------------------------------------------------------------------


class Buffers(Wrapped):
    """Does to its buffers what a forward pass can do to buffers."""

    def __init__(self, act: Callable[["Buffers"], object]) -> None:
        super().__init__()
        memory = torch.arange(4.0)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("some", memory[:])
        self.register_buffer("view", memory[1:])
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("nan", torch.tensor(torch.nan))
        self.register_buffer("missing", None)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        self.act(self)
        return self.inner(x)


def _assign(model: Buffers) -> None:
    model.some = torch.ones(7)
    model.missing = torch.ones(2)


def _assign_data(model: Buffers) -> None:
    model.some.data = torch.ones(7)
    model.view.data = torch.ones(2)


ACTS: dict[str, Callable[[Buffers], object]] = {
    "counts": lambda model: model.count.add_(1),
    "writes": lambda model: model.some.mul_(2),
    "writes through a view": lambda model: model.view.mul_(2),
    "writes not a number": lambda model: model.some.fill_(torch.nan),
    "writes the other zero": lambda model: model.some[0].neg_(),
    "writes into memory unseen": lambda model: model.some.data.mul_(2),
    "writes a number": lambda model: model.nan.fill_(1),
    "resizes": lambda model: model.empty.resize_(3).fill_(1),
    "assigns": _assign,
    "assigns data": _assign_data,
    "adds one": lambda model: model.register_buffer("another", torch.ones(1)),
    "removes one": lambda model: model._buffers.pop("count", None),
}


@pytest.mark.parametrize("act", ACTS)
def test_buffers(act: str) -> None:
    model = Buffers(ACTS[act])
    explain(model)
    # They still share their memory.
    assert model.view.data_ptr() == model.some.data_ptr() + model.some.element_size()


def test_only_buffers_that_were_written_to_are_written_to_again() -> None:
    model = Buffers(ACTS["writes a number"])
    versions = {name: buffer._version for name, buffer in model.named_buffers()}
    Gradient()(model, IMAGES, 1)
    changed = {name for name, buffer in model.named_buffers() if buffer._version != versions[name]}
    # A graph that waits for its backward pass holds on to the others as they are.
    assert changed == {"nan"}


def test_buffers_of_many_kinds() -> None:
    class Writes(Wrapped):
        def __init__(self) -> None:
            super().__init__()
            for number, kind in enumerate(
                (torch.bool, torch.uint8, torch.bfloat16, torch.float64, torch.complex128)
            ):
                self.register_buffer(f"kind {number}", torch.ones(2, 3).to(kind).t())
            self.register_buffer("sparse", torch.eye(2).to_sparse())

        def forward(self, x: Tensor) -> Tensor:
            for buffer in self.buffers():
                buffer.zero_()
            return self.inner(x)

    model = Writes()
    before = [buffer.to_dense().clone() for buffer in model.buffers()]
    with undisturbed(model):
        model(IMAGES)
        assert not model._buffers["kind 0"].any()
    for buffer, value in zip(model.buffers(), before, strict=True):
        assert torch.equal(buffer.to_dense(), value)


def test_buffer_that_takes_in_the_image_is_not_part_of_the_graph() -> None:
    class Remembers(Wrapped):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("last", torch.zeros(IMAGES.shape))
            self.register_buffer("mean", torch.zeros(4)[:2])

        def forward(self, x: Tensor) -> Tensor:
            self.last.copy_(x)
            self.mean.fill_(0).add_(x.mean())
            return self.inner(x)

    model = Remembers()
    explain(model)
    assert model.last.is_leaf
    assert model.mean.is_leaf


# --- hooks ------------------------------------------------------------------------------------


def test_hook_that_removes_itself_comes_back() -> None:
    model = make_model()
    handle = model.features.register_forward_hook(lambda *_: handle.remove())
    explain(model)
    assert len(model.features._forward_hooks) == 1


def test_hooks_that_the_model_adds_go_away() -> None:
    class Adds(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            features = self.inner.features
            features.register_forward_hook(lambda *_: None, with_kwargs=True, always_call=True)
            features.register_forward_pre_hook(lambda *_: None, with_kwargs=True, prepend=True)
            features.register_full_backward_hook(lambda *_: None)
            features.register_full_backward_pre_hook(lambda *_: None)
            return self.inner(x)

    model = Adds()
    first = model.inner.features.register_forward_hook(lambda *_: None)
    explain(model)
    assert list(model.inner.features._forward_hooks) == [first.id]
    assert model.inner.features._is_full_backward_hook is None


def test_hooks_of_the_user_run() -> None:
    model, seen = make_model(), Tally()
    model.features.register_forward_hook(lambda _m, _i, output: seen.append(len(output)))
    explain(model)
    assert seen == [len(IMAGES)]


# --- random streams ---------------------------------------------------------------------------


def test_random_streams_are_restored() -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), float(np.random.rand()), random.random()

    with preserved_random_streams():
        first = draw()
    assert draw() == first


def test_dropout_that_is_always_on_does_not_move_the_stream() -> None:
    class AlwaysDrops(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            return self.inner(nn.functional.dropout(x, 0.5, training=True))

    explain(AlwaysDrops())


# --- tensors made in inference mode -----------------------------------------------------------


@pytest.mark.parametrize("method", [Gradient(), GradCAM()], ids=lambda m: m.name)
def test_model_made_in_inference_mode(method: Gradient | GradCAM) -> None:
    wanted = method(make_model(), IMAGES, 1)
    with torch.inference_mode():
        model = make_model()
        images = IMAGES.clone()
    assert model.head.weight.is_inference()
    with leaves_no_trace(model, images):
        assert bits(method(model, images, 1)) == bits(wanted)


class Caches(Wrapped):
    """Makes something when it first runs, as positional encodings are made."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.attribute: Tensor | None = None
        self.hidden: list[Tensor] = []
        self.register_buffer("buffer", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.attribute is None and self.buffer is None and not self.hidden:
            made = 2 * torch.ones(3, 1, 1)
            if self.place == "hidden":
                self.hidden.append(made)
            else:
                setattr(self, self.place, made)
        for scale in (self.attribute, self.buffer, *self.hidden):
            x = x if scale is None else x * scale
        return self.inner(x)


@pytest.mark.parametrize("place", ["attribute", "buffer"])
def test_cache_that_a_validation_run_has_filled(place: str) -> None:
    fresh, model = Caches(place), Caches(place)
    with torch.inference_mode():
        model(IMAGES)
    cache = getattr(model, place)
    assert cache.is_inference()
    assert bits(explain(model)) == bits(Gradient()(fresh, IMAGES, 1))
    assert getattr(model, place) is cache


def test_cache_that_is_not_found() -> None:
    model = Caches("hidden")
    with torch.inference_mode():
        model(IMAGES)
    with pytest.raises(ModelError, match=r"Trainer\(inference_mode=False\)"):
        explain(model)


def test_other_errors_of_torch_come_through() -> None:
    with pytest.raises(RuntimeError, match="something else"), undisturbed(make_model()):
        raise RuntimeError("something else")


# --- kinds of models --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_lazy_layers_are_refused_before_anything_is_changed() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Dropout())
    with (
        leaves_no_trace(model[1]),
        pytest.raises(ModelError, match=r"layer '0' \(LazyConv2d\) waits for its first input"),
        undisturbed(model),
    ):
        pass
    assert model.training


@pytest.mark.filterwarnings("ignore:`?torch.nn.utils.weight_norm:FutureWarning")
def test_computed_weights() -> None:
    model = make_model()
    wanted = explain(model)
    parametrizations.weight_norm(model.features[0])
    parametrizations.spectral_norm(model.features[4])
    nn.utils.weight_norm(model.hidden[2])
    prune.identity(model.head, "weight")
    model.train()
    model(IMAGES)
    explain(model)
    parametrized = GradCAM("features")(model, IMAGES, 1)
    assert parametrized.shape == wanted.shape


def test_data_parallel() -> None:
    wanted = explain(make_model())
    model = in_training(nn.DataParallel(make_model()))
    assert bits(explain(model)) == bits(wanted)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
class TestScripted:
    def test_scripted_model(self) -> None:
        model = torch.jit.script(make_model()).train()
        assert bits(Gradient()(model, IMAGES, 1)) == bits(Gradient()(make_model(), IMAGES, 1))
        assert model.training
        assert model.head.weight.requires_grad

    def test_traced_model(self) -> None:
        model = torch.jit.trace(make_model(), IMAGES)
        wanted = Gradient()(make_model(), IMAGES, 1)
        torch.testing.assert_close(Gradient()(model, IMAGES, 1), wanted)

    def test_layers_around_a_scripted_part(self) -> None:
        model = make_model()
        wanted = GradCAM()(model, IMAGES, 1)
        model.hidden = torch.jit.script(model.hidden)
        assert bits(GradCAM()(model, IMAGES, 1)) == bits(wanted)

    def test_layers_of_a_scripted_model(self) -> None:
        model = torch.jit.script(make_model())
        with pytest.raises(LayerError, match=r"'features'.*scripted or traced"):
            GradCAM("features")(model, IMAGES, 1)
        with pytest.raises(
            LayerError, match="scripted or traced, or that run several times, do not count"
        ):
            GradCAM()(model, IMAGES, 1)


def _compile_all(model: nn.Module, counter: CompileCounter) -> nn.Module:
    return torch.compile(model, backend=counter)


def _compile_all_in_place(model: nn.Module, counter: CompileCounter) -> nn.Module:
    model.compile(backend=counter)
    return model


def _compile_part(model: nn.Module, counter: CompileCounter) -> nn.Module:
    model.features = torch.compile(model.features, backend=counter)
    return model


class _Part(nn.Sequential):
    """Of the user's: torch 2.6 compiles no class of its own in place."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)


def _compile_part_in_place(model: nn.Module, counter: CompileCounter) -> nn.Module:
    model.features = _Part(*model.features)
    model.features.compile(backend=counter)
    return model


@pytest.mark.parametrize(
    "compiled", [_compile_all, _compile_all_in_place, _compile_part, _compile_part_in_place]
)
def test_compiled_models(compiled: Callable[[nn.Module, CompileCounter], nn.Module]) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    wanted = [bits(m(make_model(), IMAGES, 1)) for m in (Gradient(), GradCAM())]
    model = compiled(make_model(), counter)

    def train_and_validate() -> int:
        # Without changing the running statistics, which would change the maps.
        with torch.no_grad():
            model(IMAGES)
        model(IMAGES).sum().backward()
        model.zero_grad()
        return int(counter.frame_count)

    compilations = train_and_validate()
    assert compilations > 0
    with leaves_no_trace(model, IMAGES):
        maps = [m(model, IMAGES, 1) for m in (Gradient(), GradCAM(), GradCAM("features"))]
    # The hook on the layer has fired, in code that was compiled before the hook was there.
    assert [bits(found) for found in maps] == [*wanted, wanted[1]]
    assert train_and_validate() == compilations
    torch._dynamo.reset()
