from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tally import Tally
from tiny_models import CLASSES, make_images, make_model
from torch import Tensor, nn

from lightning_saliency.errors import InputError, LayerError, ModelError
from lightning_saliency.network.isolation.undisturbed import undisturbed
from lightning_saliency.network.layer_gradient import layer_gradient, score_gradient


class Smooth(nn.Module):
    """Differentiable everywhere, so that differences come close to derivatives."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(2, 3, 3, padding=1)
        self.conv2 = nn.Conv2d(3, 2, 3, stride=2)
        self.head = nn.Linear(2, CLASSES)
        self.double()

    def tail(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv2(torch.tanh(x))).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.conv1(x))


def differences(score: object, x: Tensor, step: float = 1e-5) -> Tensor:
    """Return the central differences of a function to (N,), each image by itself."""
    gradient = torch.zeros_like(x)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in x.shape[1:])):
        offset = torch.zeros_like(x[:1])
        offset[(0, *place)] = step
        change = score(x + offset) - score(x - offset)  # type: ignore[operator]
        gradient[(slice(None), *place)] = change / (2 * step)
    return gradient


@pytest.mark.parametrize("layer", ["", "conv1"])
def test_derivative_is_the_limit_of_differences(layer: str) -> None:
    model, image = Smooth(), make_images(2, (6, 7), channels=2, dtype=torch.float64)
    with undisturbed(model):
        activation, gradient = layer_gradient(model, image.clone(), [1, 4], layer)
    start, run = (image, model) if not layer else (model.conv1(image), model.tail)
    with torch.no_grad():
        wanted = differences(lambda x: run(x)[torch.arange(2), [1, 4]], start.detach())
    torch.testing.assert_close(activation, start)
    torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("layer", ["", "features"])
def test_both_are_free_of_the_graph(layer: str) -> None:
    model = make_model()
    with undisturbed(model):
        results = layer_gradient(model, make_images(), 1, layer)
    assert not any(result.requires_grad for result in results)
    assert results[0].shape == results[1].shape


def test_nothing_before_the_layer_is_recorded() -> None:
    model, saved = make_model(), []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with undisturbed(model), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        layer_gradient(model, make_images(), 1, "head")
        at_the_end, saved[:] = sum(saved), []
        layer_gradient(model, make_images(), 1)
    assert at_the_end < sum(saved) / 10


def test_rules_hold_for_the_forward_pass_alone() -> None:
    seen = Tally()

    @contextmanager
    def rules() -> Iterator[None]:
        seen.append("in")
        yield
        seen.append("out")

    class Notes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_model()

        def forward(self, x: Tensor) -> Tensor:
            x.register_hook(lambda _: seen.append("backward"))
            seen.append("forward")
            return self.net(x)

    model = Notes()
    with undisturbed(model):
        layer_gradient(model, make_images(), 1, "", rules())
    assert seen == ["in", "forward", "out", "backward"]


def test_score_that_does_not_depend_on_the_layer() -> None:
    class Ignores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = make_model(), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.unused(x)
            return self.used(x)

    model = Ignores()
    with undisturbed(model), pytest.raises(ModelError, match="output of layer 'unused'"):
        layer_gradient(model, make_images(), 1, "unused")


class Rounds(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.tokens = _Tokens()
        self.net = make_model()

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "tokens":
            return self.net(self.tokens(x).float())
        return self.net(x.detach()) if self.how == "detach" else self.net(x).detach()


class _Tokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (8 * x).long()


@pytest.mark.parametrize("how", ["detach", "detach at the end", "tokens"])
def test_score_that_does_not_depend_on_the_image(how: str) -> None:
    model = Rounds(how)
    with undisturbed(model), pytest.raises(ModelError, match=r"depend on the image.*RISE"):
        layer_gradient(model, make_images(), 1)


def test_layer_of_whole_numbers() -> None:
    model = Rounds("tokens")
    with undisturbed(model), pytest.raises(ModelError, match="output of layer 'tokens'"):
        layer_gradient(model, make_images(), 1, "tokens")


def test_errors_come_through() -> None:
    model = make_model()
    with undisturbed(model):
        with pytest.raises(LayerError, match="has no 'nowhere'"):
            layer_gradient(model, make_images(), 1, "nowhere")
        with pytest.raises(InputError, match="from 0 to 4"):
            layer_gradient(model, make_images(), CLASSES)
        with pytest.raises(ModelError, match="each of 2 images"):
            layer_gradient(Sums(), make_images(), 0)


class Sums(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((0, 2, 3))[None]


def test_score_gradient_sums_over_the_images() -> None:
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    assert score_gradient(x**2, x).tolist() == [4, 6]
