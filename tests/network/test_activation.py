import pytest
import torch
from tiny_models import make_images, make_model
from torch import Tensor, nn

from lightning_saliency.errors import LayerError
from lightning_saliency.network.layers import capture


class InPlaceAfter(nn.Module):
    """What comes after the layer writes into its output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False)
        self.layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, -1.0]])

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.relu_(self.layer(x))


def test_in_place_operation_after_the_layer_changes_nothing() -> None:
    model, x = InPlaceAfter(), torch.tensor([[2.0, 5.0]], requires_grad=True)
    with capture(model, "layer") as caught:
        output = model(x)
    assert output.tolist() == [[6, 0]]
    assert caught.activation.tolist() == [[2, -5]]
    (gradient,) = torch.autograd.grad(output.sum(), caught.activation)
    assert gradient.tolist() == [[3, 0]]


def test_output_of_the_model_is_unchanged() -> None:
    model, images = make_model(), make_images()
    wanted = model(images)
    with capture(model, "features"):
        assert torch.equal(model(images), wanted)


def test_graph_that_starts_at_the_layer() -> None:
    model, images = make_model().requires_grad_(False), make_images()
    with capture(model, "features", start_graph=True) as caught:
        output = model(images)
    assert caught.activation.is_leaf
    (gradient,) = torch.autograd.grad(output.sum(), caught.activation)
    assert gradient.shape == caught.activation.shape
    assert gradient.abs().sum() > 0


def test_layer_that_the_model_runs_without_gradients() -> None:
    class FrozenStem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.stem(x)
            return self.head(x)

    model = FrozenStem()
    with capture(model, "stem", start_graph=True) as caught:
        output = model(torch.rand(1, 2))
    (gradient,) = torch.autograd.grad(output.sum(), caught.activation)
    assert torch.equal(gradient, model.head.weight)


def test_records_a_graph_for_a_caller_without_gradients() -> None:
    model = make_model()
    with torch.no_grad():
        with capture(model, "features", start_graph=True) as caught:
            output = model(make_images())
        assert not torch.is_grad_enabled()
    assert output.requires_grad
    assert caught.activation.requires_grad


class Odd(nn.Module):
    """Layers that run never, twice, or put out no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.ReLU()
        self.twice = nn.ReLU()
        self.pair = _Pair()
        self.whole = _Whole()

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(self.twice(x)) + self.pair(x)[0] + self.whole(x)


class _Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class _Whole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.long()


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("never", r"'never' to run once.*not called"),
        ("twice", r"'twice' to run once.*2 times"),
        ("pair", r"'pair' to put out one tensor.*tuple"),
    ],
)
def test_outputs_that_cannot_be_explained(layer: str, words: str) -> None:
    model = Odd()
    with capture(model, layer) as caught:
        model(torch.rand(2))
    with pytest.raises(LayerError, match=words):
        _ = caught.activation


def test_whole_numbers_pass_as_they_are() -> None:
    model = Odd()
    with capture(model, "whole", start_graph=True) as caught:
        model(torch.rand(2))
    assert caught.activation.dtype == torch.int64


def test_unknown_layer() -> None:
    model = make_model()
    with pytest.raises(LayerError, match="has no 'nowhere'"), capture(model, "nowhere"):
        pass


def test_hook_goes_away_after_an_error() -> None:
    model = make_model()
    with pytest.raises(RuntimeError), capture(model, "features"):
        model(torch.rand(1, 1, 1, 1))
    assert not model.features._forward_hooks
