from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiny_models import CLASSES, ResidualLike, in_training, make_images, make_model
from torch import Tensor, nn
from torchvision import models
from traces import leaves_no_trace

from lightning_saliency.errors import LayerError, NoGradientError
from lightning_saliency.network.grid import TokenGrid
from lightning_saliency.network.isolation.undisturbed import undisturbed
from lightning_saliency.network.layer_selection import find_layout, last_spatial_layer


def found_in(model: nn.Module, image: Tensor) -> str:
    model.eval()
    with leaves_no_trace(model, image), undisturbed(model):
        return last_spatial_layer(model, image).name


def small_vit(image: int = 32, zero_head: bool = False) -> nn.Module:
    vit = models.VisionTransformer(
        image_size=image,
        patch_size=8,
        num_layers=3,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        num_classes=CLASSES,
    )
    if not zero_head:
        nn.init.normal_(vit.heads.head.weight)
    return vit


def small_swin() -> nn.Module:
    return models.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
        num_classes=CLASSES,
    )


@pytest.fixture(autouse=True)
def _same_weights_in_every_run() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("make", "size", "layer"),
    [
        (lambda: models.resnet18(weights=None), 64, "layer4"),
        (lambda: models.alexnet(weights=None), 96, "features"),
        (lambda: models.squeezenet1_1(weights=None), 64, "classifier.2"),
        (lambda: models.mobilenet_v3_small(weights=None), 64, "features"),
        (lambda: models.regnet_y_400mf(weights=None), 64, "trunk_output"),
        (lambda: models.shufflenet_v2_x0_5(weights=None), 64, "conv5"),
        (small_vit, 32, "encoder.layers.encoder_layer_2.ln_1"),
        (small_swin, 32, "permute"),
    ],
)
def test_models_of_torchvision(make: Callable[[], nn.Module], size: int, layer: str) -> None:
    assert found_in(make(), torch.randn(2, 3, size, size)) == layer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*weights of the model will be:FutureWarning")
@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [
        ("vgg11", 64, "features"),
        ("densenet121", 64, "features"),
        ("efficientnet_b0", 64, "features"),
        ("mobilenet_v2", 64, "features"),
        ("convnext_tiny", 64, "features"),
        ("swin_t", 64, "permute"),
        ("maxvit_t", 224, "blocks.3"),
        ("vit_b_16", 224, "encoder.layers.encoder_layer_11.ln_1"),
    ],
)
def test_large_models_of_torchvision(name: str, size: int, layer: str) -> None:
    model = getattr(models, name)(weights=None)
    assert found_in(model, torch.randn(1, 3, size, size)) == layer


def test_places_that_a_small_image_does_not_have_are_passed_over() -> None:
    # At 32 x 32 the last stage of ResNet has a single place, which is no picture.
    assert found_in(models.resnet18(weights=None), torch.randn(1, 3, 32, 32)) == "layer3"


@pytest.mark.parametrize("kind", ["vgg", "residual"])
def test_average_pooling_and_dropout_are_passed_over(kind: str) -> None:
    assert found_in(make_model(kind), make_images()) == "features"


def test_class_token_hides_what_comes_after_the_last_attention() -> None:
    # The encoder's output has all tokens, but the score depends on the class token alone.
    vit = small_vit()
    image = torch.randn(1, 3, 32, 32)
    layer = found_in(vit, image)
    assert layer != "encoder"
    assert layer != "encoder.layers.encoder_layer_2"


def test_layer_that_starts_at_zero_hides_nothing() -> None:
    # Torchvision's vision transformers start with a head of zeros, so that no gradient arrives.
    vit, image = small_vit(zero_head=True), torch.randn(1, 3, 32, 32)
    # Weights that the model holds under two names come back, too.
    vit.classifier = vit.heads
    assert not vit.heads.head.weight.any()
    assert found_in(in_training(vit), image) == "encoder.layers.encoder_layer_2.ln_1"
    assert not vit.heads.head.weight.any()


def test_network_whose_units_are_all_dead() -> None:
    model = make_model()
    nn.init.constant_(model.hidden[2].bias, -1e3)
    assert found_in(model, make_images()) == "features"


def test_segmentation() -> None:
    class Segmenter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())
            self.classifier = nn.Conv2d(4, CLASSES, 1)
            self.resize = nn.Upsample(scale_factor=2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.resize(self.classifier(self.backbone(x)))}

    # Grad-CAM of the classes' picture, and of what its convolution takes, is that picture again.
    assert found_in(Segmenter(), make_images()) == "backbone.0"


class LowRank(nn.Module):
    """A frozen projection and two small ones beside it, as peft wraps them."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(width, out)
        self.lora_A = nn.Linear(width, 2, bias=False)
        self.lora_B = nn.Linear(2, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


class HandWrittenBlock(nn.Module):
    """Attention whose parts are layers of their own, as many packages write it."""

    def __init__(self, width: int, low_rank: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = LowRank(width, 3 * width) if low_rank else nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm = nn.LayerNorm(width // 2), nn.LayerNorm(width // 2)
        self.attend = nn.Softmax(-1)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in parts)
        weights = self.attend(self.q_norm(q) @ self.k_norm(k).transpose(2, 3))
        return x + self.proj((weights @ v).transpose(1, 2).flatten(2))


class HandWrittenTransformer(nn.Module):
    """Tokens of patches, after a class token or before queries."""

    def __init__(self, low_rank: bool = False, queries: int = 0) -> None:
        super().__init__()
        self.queries = queries
        self.patches = nn.Conv2d(3, 12, 8, stride=8)
        self.extra = nn.Parameter(torch.randn(1, queries or 1, 12))
        self.blocks = nn.Sequential(*(HandWrittenBlock(12, low_rank) for _ in range(2)))
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        patches, extra = (
            self.patches(x).flatten(2).transpose(1, 2),
            self.extra.expand(len(x), -1, -1),
        )
        tokens = torch.cat([patches, extra] if self.queries else [extra, patches], 1)
        tokens = self.norm(self.blocks(tokens))
        used = tokens[:, -self.queries :] if self.queries else tokens[:, :1]
        return self.head(used).mean(1)


SIZES = [(32, 48), (48, 32), (40, 40), (24, 64)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("low_rank", [False, True])
def test_attention_and_low_rank_branches_are_no_pictures(
    low_rank: bool, size: tuple[int, int]
) -> None:
    model, image = HandWrittenTransformer(low_rank).eval(), torch.randn(1, 3, *size)
    with undisturbed(model):
        found = last_spatial_layer(model, image)
    # What the patches add in the last block goes through its first layer.
    assert found.name == "blocks.1.norm"
    assert found.layout == TokenGrid(size[0] // 8, size[1] // 8, before=1)


@pytest.mark.parametrize("size", SIZES)
def test_queries_are_no_picture_and_what_the_message_proposes_is(size: tuple[int, int]) -> None:
    model, image = HandWrittenTransformer(queries=4).eval(), torch.randn(1, 3, *size)
    grid = TokenGrid(size[0] // 8, size[1] // 8, after=4)
    with undisturbed(model):
        with pytest.raises(LayerError, match=f"'blocks.1.norm' .*, {grid}, .*Name one:"):
            last_spatial_layer(model, image)
        assert find_layout(model, image, "blocks.1.norm").layout == grid


def test_layer_under_two_names_goes_by_the_first() -> None:
    model = make_model()
    model.again = model.features
    assert found_in(model, make_images()) == "features"


def test_output_without_logits_leaves_the_last_picture() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_model()

        def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
            return [{"boxes": row} for row in self.net(x)]

    assert found_in(Detector(), make_images()) == "net.features"


class Twice(nn.Module):
    """Everything with a spatial output runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    "model",
    [nn.Sequential(nn.Flatten(), nn.Linear(960, CLASSES)), Twice(), nn.Sequential()],
    ids=["flat", "twice", "empty"],
)
def test_no_spatial_layer(model: nn.Module) -> None:
    with pytest.raises(LayerError, match=rf"{type(model).__name__} with .*\(N, K, h, w\).*RISE"):
        found_in(model, make_images())


def test_no_gradient() -> None:
    class Frozen(ResidualLike):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(x)

    with pytest.raises(NoGradientError, match=r"Frozen to be differentiable.*detach\(\)"):
        found_in(Frozen(), make_images())


def test_hooks_go_away_after_an_error() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            raise ArithmeticError(F.relu(self.conv(x)).shape)

    model = Fails()
    with pytest.raises(ArithmeticError):
        last_spatial_layer(model, make_images())
    assert not model.conv._forward_hooks
