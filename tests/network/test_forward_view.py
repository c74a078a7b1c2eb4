import torch
import torch.nn.functional as F
from tiny_models import in_training, make_images, make_model
from torch import Tensor, nn
from traces import bits, leaves_no_trace

from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.network.forward_view import ForwardView

IMAGES = make_images()


class Encoder(nn.Module):
    """Has no forward, but a method that depends on the training flag of the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_model()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def encode(self, x: Tensor) -> Tensor:
        return self.net(self.scale * F.dropout(x, 0.5, self.training))


def view_of(module: Encoder) -> ForwardView:
    return ForwardView(module, lambda encoder, images: encoder.encode(images))


def test_layers_and_weights_are_the_modules() -> None:
    module = Encoder()
    view = view_of(module)
    assert dict(view.named_parameters()) == dict(module.named_parameters())
    assert [name for name, _ in view.named_modules()] == [n for n, _ in module.named_modules()]
    assert view.net is module.net


def test_making_a_view_changes_nothing() -> None:
    for mode in (True, False):
        module = Encoder().train(mode)
        with leaves_no_trace(module):
            view = view_of(module)
        assert view.training is mode
        assert "_viewed" not in module._modules


def test_explained_in_eval_mode_and_left_in_training() -> None:
    module = Encoder().eval()
    for method in (Gradient(), GradCAM(), GradCAM("net.features")):
        wanted = method(view_of(module), IMAGES, 1)
        in_training(module)
        with leaves_no_trace(module, IMAGES):
            assert bits(method(view_of(module), IMAGES, 1)) == bits(wanted)
        module.eval()
