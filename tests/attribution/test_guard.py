import pytest
import torch
import torch.nn.functional as F
from contract import METHODS, make_method
from tally import Tally
from tiny_models import in_training, make_images, make_model
from torch import Tensor, nn
from traces import bits, leaves_no_trace

from lightning_saliency.attribution import ExtremalPerturbation, GradCAM, Gradient
from lightning_saliency.attribution.guard import (
    check_image,
    check_model,
    guarded,
    require_python_model,
    run_guarded,
)
from lightning_saliency.errors import InputError, ModelError, NoGradientError

IMAGES = make_images(2, (16, 20))


def test_good_images_pass() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        check_image(torch.zeros(1, 1, 1, 1, dtype=dtype))


def test_first_bad_image_is_named() -> None:
    images = torch.zeros(4, 3, 5, 5)
    images[2, 1, 0, 3] = torch.nan
    images[3] = torch.inf
    with pytest.raises(InputError, match="image 2 of the batch has NaN or inf"):
        check_image(images)


def test_model_on_several_devices_takes_images_on_any_of_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1, device="meta"))
    check_model(model, IMAGES)
    check_model(model, IMAGES.to("meta"))
    check_model(nn.ReLU(), IMAGES)
    with pytest.raises(InputError, match=r"model's device \(meta\), got cpu. Move them"):
        check_model(model[1], IMAGES)


def test_guard_gives_a_copy_that_is_free_of_the_graph() -> None:
    images = IMAGES.clone().requires_grad_()
    with guarded(make_model(), images * 2) as copy:
        assert copy.is_leaf
        assert not copy.requires_grad
        assert torch.equal(copy, images * 2)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_scripted_parts_are_found() -> None:
    model = make_model()
    require_python_model(model, "a method")
    model.hidden[2] = torch.jit.script(model.hidden[2])
    with pytest.raises(ModelError, match=r"for a method, but its layer 'hidden.2' is scripted"):
        require_python_model(model, "a method")
    with pytest.raises(ModelError, match="but it is scripted or traced"):
        require_python_model(model.hidden[2], "a method")


# --- frozen parts that run in no_grad() -------------------------------------------------------


class Transfer(nn.Module):
    """Trains a head on a frozen extractor, as Lightning's example of transfer learning does."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = make_model()
        self.features, self.head = self.whole.features, self.whole.head

    def forward(self, x: Tensor) -> Tensor:
        self.features.eval()
        with torch.no_grad():
            x = self.whole.pool(self.features(x))
        return self.head(self.whole.hidden(x))


@pytest.mark.parametrize("name", METHODS)
def test_frozen_extractor(name: str) -> None:
    wanted = make_method(name)(make_model(), IMAGES, [1, 2])
    model, method = in_training(Transfer()), make_method(name)
    with leaves_no_trace(model, IMAGES):
        assert bits(method(model, IMAGES, [1, 2])) == bits(wanted)
        prepared = method.prepare(model, IMAGES)
        assert bits(prepared(model, IMAGES, [1, 2])) == bits(wanted)


def test_frozen_extractor_of_the_second_public_method() -> None:
    method = make_method("ExtremalPerturbation")
    assert isinstance(method, ExtremalPerturbation)
    wanted = method.masks(make_model(), IMAGES, 1)
    assert torch.equal(method.masks(Transfer(), IMAGES, 1).masks, wanted.masks)


def test_layer_of_a_frozen_extractor() -> None:
    wanted = GradCAM("features.4")(make_model(), IMAGES, 1)
    assert bits(GradCAM("features.4")(Transfer(), IMAGES, 1)) == bits(wanted)


def test_gradient_that_arrives_is_the_gradient_of_torch() -> None:
    # What is computed in no_grad() is a constant there, so it is one here, too.
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                scale = x.amax((1, 2, 3), keepdim=True)
            return (x / scale).mean((2, 3))

    leaf = IMAGES.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(Scaled()(leaf)[:, 1].sum(), leaf)
    came = make_method("Gradient")(Scaled(), IMAGES, 1)
    torch.testing.assert_close(came, wanted.abs().amax(1, keepdim=True))


class Spoils(nn.Module):
    """Runs in no_grad() what cannot be differentiated even if it is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            # The derivative of a sigmoid is computed from its output.
            x = torch.sigmoid(x).mul_(2)
        return self.inner(x)


def test_error_is_the_first_one_if_recording_does_not_help() -> None:
    model = in_training(Spoils())
    with (
        leaves_no_trace(model, IMAGES),
        pytest.raises(NoGradientError, match="depend on the image") as caught,
    ):
        make_method("Gradient")(model, IMAGES, 1)
    assert "inplace operation" in str(caught.value.__cause__)


def test_runs_once_unless_the_gradient_is_missing() -> None:
    runs = []

    def fails(model: nn.Module, images: Tensor) -> Tensor:
        runs.append(images)
        raise ModelError("Expected something else.")

    with pytest.raises(ModelError, match="something else"):
        run_guarded(fails, make_model(), IMAGES)
    assert len(runs) == 1


def test_recording_leaves_the_grad_mode_alone() -> None:
    seen = Tally()

    class Looks(Transfer):
        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            with torch.no_grad():
                seen.append(F.relu(x).requires_grad)
            return x

    make_method("Gradient")(Looks(), IMAGES, 1)
    assert seen == [False, True]
    assert torch.is_grad_enabled()


class Reader(nn.Module):
    """A recurrent layer over the columns of the image."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rows, self.head = kind(48, 6, batch_first=True), nn.Linear(6, 5)
        self.seen = Tally()

    def forward(self, x: Tensor) -> Tensor:
        cudnn = torch.backends.cudnn
        self.seen.append((cudnn.enabled, cudnn.benchmark))
        return self.head(self.rows(x.flatten(1, 2).transpose(1, 2))[0].mean(1))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("benchmark", [False, True])
def test_recurrent_layers_run_without_cudnn(
    kind: type[nn.RNNBase], benchmark: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In eval mode cuDNN's have no backward pass.
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", benchmark)
    model = Reader(kind)
    saliency = Gradient()(model, torch.randn(2, 3, 16, 20), 1)
    assert saliency.any()
    assert list(model.seen) == [(False, benchmark)]
    assert torch.backends.cudnn.enabled
    assert torch.backends.cudnn.benchmark == benchmark


def test_cudnn_stays_on_for_other_models() -> None:
    seen = Tally()
    model = make_model()
    model.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.enabled))
    Gradient()(model, make_images(), 1)
    assert list(seen) == [True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_on_a_gpu(kind: type[nn.RNNBase]) -> None:
    model, images = Reader(kind), torch.randn(2, 3, 16, 20)
    wanted = Gradient()(model, images, 1)
    found = Gradient()(model.cuda(), images.cuda(), 1)
    torch.testing.assert_close(found.cpu(), wanted, rtol=1e-3, atol=1e-5)
