"""AttnLRP on the networks that people take today: its laws, where they hold exactly.

Without additive constants (biases, tokens that are learned, running means) and with attention as a
constant (``softmax="cp"``), the relevance of all pixels sums to the logit, in whatever way a
package spells its attention, gates and normalizations. All weights are random.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from lightning_saliency.attribution import AttnLRP

CLASSES = 5
CONSTANTS = (
    *("bias", "in_proj_bias", "q_bias", "v_bias", "running_mean", "cls_token", "class_token"),
    *("class_embedding", "pos_embed", "pos_embedding", "position_embeddings", "reg_token"),
    *("register_tokens", "mask_token"),
)


def of_timm(name: str, **settings: Any) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=CLASSES, **settings)


def of_transformers(kind: str, attention: str = "sdpa", **settings: Any) -> nn.Module:
    import transformers

    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 64,
        "patch_size": 16,
    }
    config = getattr(transformers, f"{kind}Config")
    if kind == "CLIP":
        made = config(vision_config={**small, **settings}, num_labels=CLASSES)
        made.vision_config._attn_implementation = attention
    else:
        made = config(**small, **settings, num_labels=CLASSES)
    made._attn_implementation = attention
    if kind == "DINOv3ViT":
        return Pooled(transformers.DINOv3ViTModel(made))
    return getattr(transformers, f"{kind}ForImageClassification")(made)


class Pooled(nn.Module):
    """Puts out a class token's features as if they were logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).pooler_output


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "torchvision ViT": (lambda: models.VisionTransformer(64, 8, 3, 2, 32, 64, num_classes=5), 64),
    "torchvision Swin V2": (lambda: models.swin_v2_t(num_classes=CLASSES), 64),
    "torchvision Swin": (lambda: models.swin_t(num_classes=CLASSES), 64),
    "torchvision MobileNetV3": (lambda: models.mobilenet_v3_small(num_classes=CLASSES), 96),
    "torchvision EfficientNet": (lambda: models.efficientnet_b0(num_classes=CLASSES), 64),
    "torchvision EfficientNetV2": (lambda: models.efficientnet_v2_s(num_classes=CLASSES), 64),
    "torchvision ConvNeXt": (lambda: models.convnext_tiny(num_classes=CLASSES), 64),
    "timm ViT": (lambda: of_timm("vit_tiny_patch16_224", img_size=64, depth=2), 64),
    "timm DINOv3": (lambda: of_timm("vit_small_patch16_dinov3", img_size=64, depth=2), 64),
    "timm DINOv2 with registers": (
        lambda: of_timm("vit_small_patch14_reg4_dinov2", img_size=56, depth=2),
        56,
    ),
    "timm ConvNeXt V2": (lambda: of_timm("convnextv2_atto"), 64),
    "timm Swin V2": (lambda: of_timm("swinv2_tiny_window8_256", img_size=64, window_size=2), 64),
    "timm EfficientNet": (lambda: of_timm("efficientnet_b0"), 64),
    "timm MobileNetV3": (lambda: of_timm("mobilenetv3_small_050"), 96),
    "timm MobileNetV4": (lambda: of_timm("mobilenetv4_conv_small"), 96),
    "timm EVA-02": (lambda: of_timm("eva02_tiny_patch14_224", img_size=56, depth=2), 56),
    "transformers ViT, sdpa": (lambda: of_transformers("ViT"), 64),
    "transformers ViT, eager": (lambda: of_transformers("ViT", "eager"), 64),
    "transformers CLIP": (lambda: of_transformers("CLIP"), 64),
    "transformers DINOv2": (lambda: of_transformers("Dinov2"), 64),
    "transformers DINOv3": (lambda: of_transformers("DINOv3ViT"), 64),
}


def network(name: str) -> tuple[nn.Module, Tensor]:
    """Return the network in double precision, with weights as after some training; an image."""
    make, side = NETWORKS[name]
    torch.manual_seed(0)
    model = make().double().requires_grad_(False)
    for weight in model.parameters():
        if weight.numel() and not (weight - weight.flatten()[0]).any():
            # As torchvision leaves its heads, ConvNeXt V2 its response normalization, and others
            # the scales of their blocks, which begin at nearly nothing.
            weight.add_(0.3 * torch.randn_like(weight) + (1 if weight.abs().max() < 0.1 else 0))
    image = torch.randn(2, 3, side, side, dtype=torch.float64)
    # Statistics of these images, without which many layers on end let little through.
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    model.train()(torch.randn(4, 3, side, side, dtype=torch.float64))
    return model.eval(), image


def logits(output: Any) -> Tensor:
    found: Tensor = getattr(output, "logits", output)
    return found


def without_constants(model: nn.Module) -> None:
    """Set everything that is added to zero."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.rpartition(".")[2] in CONSTANTS or name.endswith("position_embedding.weight"):
            value.data.zero_()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_forward_pass_is_the_networks_own(name: str) -> None:
    model, image = network(name)
    wanted = logits(model(image))
    for method in (AttnLRP(), AttnLRP(softmax="cp", conv_gamma=0.25, linear_gamma=0.05)):
        with method.pass_rules(model):
            found = logits(model(image.clone().requires_grad_()))
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_maps_are_finite_and_depend_on_the_class(name: str) -> None:
    model, image = network(name)
    for method in (AttnLRP(), AttnLRP(conv_gamma=0.25, linear_gamma=0.05)):
        one, other = (method(model, image, target) for target in (1, 2))
        assert one.isfinite().all()
        assert one.flatten(1).any(1).all()
        assert not torch.allclose(one, other)


@pytest.mark.parametrize("name", NETWORKS)
def test_with_constant_attention_nothing_is_lost(name: str) -> None:
    model, image = network(name)
    without_constants(model)
    score = logits(model(image))[:, 1]
    assert (score.abs() > 1e-9).all()
    found = AttnLRP(softmax="cp", resize=False)(model, image, 1).sum((1, 2, 3))
    torch.testing.assert_close(found, score, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_is_close(name: str) -> None:
    model, image = network(name)
    wanted = AttnLRP(resize=False)(model, image, 1)
    found = AttnLRP(resize=False)(model.float(), image.float(), 1)
    assert (found - wanted).abs().max() < 1e-2 * wanted.abs().max()


@pytest.mark.parametrize("name", ["torchvision ViT", "timm DINOv3", "torchvision EfficientNet"])
def test_other_weights_give_other_maps(name: str) -> None:
    """Model randomization: from the last layer down, the map soon is another one, and stays so."""
    model, image = network(name)
    first = AttnLRP(resize=False)(model, image, 1)
    parts = [part for part in model.modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    likeness = []
    for number, part in enumerate(reversed(parts)):
        part.weight.normal_(std=float(part.weight.std()))
        if number % max(1, len(parts) // 4) == 0:
            other = AttnLRP(resize=False)(model, image, 1)
            both = torch.stack([first.flatten(), other.flatten()])
            likeness.append(float(torch.corrcoef(both)[0, 1]))
    assert max(likeness) < 0.9
    assert abs(likeness[-1]) < 0.3
