import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from tiny_models import CLASSES, MODELS, make_images, make_model
from torch import Tensor, nn
from torchvision import models

from lightning_saliency.attribution.grad_cam import GradCAM, grad_cam, grad_cam_map
from lightning_saliency.attribution.gradient_bases import LayerMethod
from lightning_saliency.attribution.linear_approx import LinearApprox
from lightning_saliency.errors import InputError, LayerError
from lightning_saliency.image.saliency_map import resize

pytestmark = pytest.mark.filterwarnings("ignore:open_text is deprecated:DeprecationWarning")


def naive_grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Equations 1 and 2 of the paper, one number after the other."""
    count, channels, height, width = activation.shape
    maps = torch.zeros(count, 1, height, width, dtype=activation.dtype)
    for n in range(count):
        for y in range(height):
            for x in range(width):
                total = 0.0
                for k in range(channels):
                    alpha = 0.0
                    for i in range(height):
                        for j in range(width):
                            alpha += gradient[n, k, i, j].item() / (height * width)
                    total += alpha * activation[n, k, y, x].item()
                maps[n, 0, y, x] = max(0.0, total)
    return maps


def test_map_is_the_formula_of_the_paper() -> None:
    torch.manual_seed(0)
    activation, gradient = torch.randn(2, 2, 4, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(
        grad_cam_map(activation, gradient), naive_grad_cam(activation, gradient)
    )


def test_map_by_hand() -> None:
    # Two channels with mean gradients 1 and -2.
    activation = torch.tensor([[[[3.0, 1.0]], [[1.0, 2.0]]]])
    gradient = torch.tensor([[[[0.0, 2.0]], [[-3.0, -1.0]]]])
    assert grad_cam_map(activation, gradient).tolist() == [[[[1.0, 0.0]]]]


def test_last_layer_before_global_pooling_by_hand() -> None:
    # There the mean gradient of a channel is its weight in the linear layer, over the places.
    model, images = make_model("residual"), make_images()
    features = model.features(torch.relu(model.stem(images)))
    weights = model.head.weight[torch.tensor([3, 0])] / features[0, 0].numel()
    wanted = torch.einsum("nk,nkyx->nyx", weights, features).clamp(min=0)[:, None]
    torch.testing.assert_close(grad_cam(model, images, [3, 0], "features"), wanted)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("interpolated", [False, True])
def test_captum_agrees(kind: str, interpolated: bool) -> None:
    model, images, target = make_model(kind), make_images(3), torch.tensor([1, 4, 0])
    reference = LayerGradCam(model, model.features)
    wanted = reference.attribute(images, target, relu_attributions=True).detach()
    if interpolated:
        wanted = resize(wanted, (16, 20))
    saliency = grad_cam(model, images, target, "features", resize=interpolated)
    torch.testing.assert_close(saliency, wanted)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("alexnet", "features.12"),
        pytest.param("vgg11_bn", "features.28", marks=pytest.mark.slow),
        ("squeezenet1_1", "features.12"),
        ("googlenet", "inception5b"),
        pytest.param("densenet121", "features.denseblock4", marks=pytest.mark.slow),
        ("resnet18", "layer4"),
        ("resnet18", "layer2"),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"resize": True, "smooth": 0.02}], ids=str)
def test_torchray_agrees(name: str, layer: str, settings: dict[str, Any]) -> None:
    reference = pytest.importorskip("torchray.attribution.grad_cam").grad_cam
    torch.manual_seed(0)
    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    model = getattr(models, name)(weights=None, **extra).eval()
    images, target = torch.randn(6, 3, 96, 64), torch.arange(0, 960, 160)
    saliency = grad_cam(model, images, target, layer, **settings)
    wanted = reference(
        copy.deepcopy(model), images.clone(), target, saliency_layer=layer, **settings
    ).detach()
    assert (saliency - wanted).norm() / wanted.norm() < 1e-5


def test_in_place_relu_after_the_layer() -> None:
    # With "features.5" goes what the batch normalisation put out, not what the ReLU made of it.
    model, images = make_model(), make_images()
    apart = copy.deepcopy(model)
    apart.features[6].inplace = False
    wanted = grad_cam(apart, images, 1, "features.5")
    assert torch.equal(grad_cam(model, images, 1, "features.5"), wanted)
    activation = model.features[:6](images)
    assert activation.min() < 0
    gradient = torch.autograd.functional.jacobian(
        lambda a: model.head(model.hidden(model.pool(F.relu(a))))[:, 1].sum(), activation
    )
    torch.testing.assert_close(wanted, grad_cam_map(activation, gradient).detach())


def test_same_layer_by_itself() -> None:
    model, images = make_model(), make_images()
    wanted = grad_cam(model, images, 1, "features")
    for nothing in ("", None):
        assert torch.equal(grad_cam(model, images, 1, nothing), wanted)
    assert torch.equal(GradCAM(resize=False)(model, images, 1), wanted)
    prepared = GradCAM(resize=False).prepare(model, images)
    assert prepared == GradCAM("features", "channels_first", resize=False)
    assert prepared.found == "layer 'features', 8 x 10 places, channels first"


def test_function_is_the_object_without_resizing() -> None:
    model, images = make_model(), make_images()
    method = GradCAM("features.4", "channels_first", resize=(4, 4), smooth=0.1)
    saliency = grad_cam(model, images, 1, "features.4", (4, 4), smooth=0.1, layout="channels_first")
    assert torch.equal(saliency, method(model, images, 1))


def test_each_map_stands_for_its_own_image() -> None:
    # One image's score must not reach the other's map, however large it is.
    model, images = make_model(), make_images(2)
    images[1] *= 100
    alone = grad_cam(model, images[:1], 1, "features")
    torch.testing.assert_close(grad_cam(model, images, 1, "features")[:1], alone)


# --- token models -----------------------------------------------------------------------------


class Attention(nn.Module):
    """A vision transformer of one block, with a class token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def tail(self, tokens: Tensor) -> Tensor:
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.head((tokens + mixed)[:, 0])

    def stem(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        return self.norm(torch.cat([self.token.expand(len(x), 1, 8), tokens], 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.stem(x))


def test_tokens_are_folded_back_without_the_class_token() -> None:
    model, images = Attention().eval(), make_images(2, (16, 24))
    tokens = model.stem(images).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.tail(tokens)[:, 2].sum(), tokens)
    # 4 x 6 patches of 4 x 4 pixels, row by row.
    activation, gradient = (t[:, 1:].mT.reshape(2, 8, 4, 6) for t in (tokens, gradient))
    wanted = grad_cam_map(activation, gradient).detach()
    for saliency in (grad_cam(model, images, 2), grad_cam(model, images, 2, "norm")):
        assert saliency.shape == (2, 1, 4, 6)
        torch.testing.assert_close(saliency, wanted)
    assert wanted.max() > 0


def test_layout_of_ones_own() -> None:
    def drop_and_fold(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].mT.reshape(-1, 8, 4, 6)

    model, images = Attention().eval(), make_images(2, (16, 24))
    own = grad_cam(model, images, 2, "norm", layout=drop_and_fold)
    assert torch.equal(own, grad_cam(model, images, 2, "norm"))


@pytest.mark.parametrize("layer", ["permute", "features.1", "features.3", ""])
def test_swin_puts_its_channels_last(layer: str) -> None:
    torch.manual_seed(0)
    model = models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=CLASSES).eval()
    images = torch.randn(2, 3, 64, 64)
    saliency = grad_cam(model, images, 1, layer)
    # The second stage, after one halving, has 8 x 8 places, and the first 16 x 16.
    assert saliency.shape[2:] == ((16, 16) if layer == "features.1" else (8, 8))
    if layer != "permute":
        order = "channels_first" if layer == "" else "channels_last"
        assert torch.equal(saliency, grad_cam(model, images, 1, layer, layout=order))


def test_vision_transformer_of_torchvision() -> None:
    torch.manual_seed(0)
    vit = models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=CLASSES).eval()
    nn.init.normal_(vit.heads.head.weight)
    images = torch.randn(2, 3, 32, 32)
    saliency = grad_cam(vit, images, [0, 3])
    assert saliency.shape == (2, 1, 4, 4)
    assert saliency.amax((1, 2, 3)).min() > 0
    last_norm = "encoder.layers.encoder_layer_1.ln_1"
    assert torch.equal(saliency, grad_cam(vit, images, [0, 3], last_norm))


@pytest.mark.slow
@pytest.mark.parametrize("method", [GradCAM(), LinearApprox()], ids=lambda method: method.name)
@pytest.mark.parametrize(
    ("name", "places"), [("vit_b_16", (14, 14)), ("swin_t", (7, 7))], ids=["vit", "swin"]
)
def test_large_token_models_need_no_settings(
    method: LayerMethod, name: str, places: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    model = getattr(models, name)(weights=None).eval()
    if name == "vit_b_16":
        # It begins at zero, where no score depends on anything.
        nn.init.normal_(model.heads.head.weight)
    images = torch.randn(2, 3, 224, 224)
    saliency = replace(method, resize=False)(model, images, [3, 700])
    assert saliency.shape == (2, 1, *places)
    # By hand, from the output of the layer that the method settles on.
    layer = method.prepare(model, images[:1]).saliency_layer
    assert layer is not None
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *args: kept.append(args[2]))
    logits = model(images)
    handle.remove()
    score = logits[0, 3] + logits[1, 700]
    (gradient,) = torch.autograd.grad(score, kept[0])
    activation = kept[0].detach()
    if name == "vit_b_16":
        activation, gradient = (t[:, 1:].mT.unflatten(2, places) for t in (activation, gradient))
    wanted = method.layer_map(activation, gradient)
    torch.testing.assert_close(saliency, wanted, rtol=1e-3, atol=1e-5)


# --- what the model returns -------------------------------------------------------------------


class Returns(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.net = make_model()

    def forward(self, x: Tensor) -> object:
        logits = self.net(x)
        if self.form == "dictionary":
            return {"logits": logits}
        if self.form == "tuple":
            return logits, x
        # Different in each place, with the logits as mean.
        slope = torch.linspace(-1, 1, 4)
        return logits[:, :, None, None] + slope[:, None] * slope


@pytest.mark.parametrize("form", ["dictionary", "tuple", "score maps"])
def test_forms_of_output(form: str) -> None:
    model, images = Returns(form), make_images()
    wanted = grad_cam(model.net, images, [1, 2], "features")
    torch.testing.assert_close(grad_cam(model, images, [1, 2], "net.features"), wanted)


def test_one_unit() -> None:
    class OneUnit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_model()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)[:, 1]

    model, images = OneUnit(), make_images()
    wanted = grad_cam(model.net, images, 1, "features")
    torch.testing.assert_close(grad_cam(model, images, 1, "net.features"), wanted)
    against = grad_cam(model.net, images, lambda y: -y[:, 1], "features")
    torch.testing.assert_close(grad_cam(model, images, 0, "net.features"), against)
    signs = model(images) > 0
    predicted = grad_cam(model, images, "predicted", "net.features")
    torch.testing.assert_close(predicted, torch.where(signs[:, None, None, None], wanted, against))


def test_callable_target() -> None:
    model, images = make_model(), make_images()
    torch.testing.assert_close(
        grad_cam(model, images, lambda y: y[:, 3], "features"),
        grad_cam(model, images, 3, "features"),
    )


# --- errors -----------------------------------------------------------------------------------


def test_layer_without_places() -> None:
    with pytest.raises(LayerError, match=r"\(2, 5\).*before the pooling"):
        grad_cam(make_model(), make_images(), 1, "head")
    with pytest.raises(LayerError, match=r"\(1, 5\)"):
        GradCAM("head").prepare(make_model(), make_images())


def test_unknown_layout() -> None:
    with pytest.raises(InputError, match=r"layout to be one of.*'nhwc'"):
        grad_cam(make_model(), make_images(), 1, "features", layout="nhwc")  # type: ignore[arg-type]


class KeepsItsStages(nn.Module):
    """Hands a stage's output on by a hook of its own, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(12, CLASSES)
        self.kept: list[Tensor] = []
        self.first.register_forward_hook(lambda _m, _i, output: self.kept.append(output))

    def forward(self, x: Tensor) -> Tensor:
        self.kept.clear()
        last = self.second(self.first(x))
        return self.head(torch.cat([self.kept[0], last], 1).mean((2, 3)))


@pytest.mark.parametrize("kind", [GradCAM, LinearApprox])
def test_what_a_models_own_hooks_keep_is_differentiated_too(kind: Any) -> None:
    model, images = KeepsItsStages().eval(), make_images()
    x = model.first[1](model.first[0](images)).detach().requires_grad_()
    score = model.head(torch.cat([x, model.second(x)], 1).mean((2, 3)))[:, 1].sum()
    (gradient,) = torch.autograd.grad(score, x)
    wanted = kind.layer_map(x.detach(), gradient)
    torch.testing.assert_close(kind("first", resize=False)(model, images, 1), wanted)
