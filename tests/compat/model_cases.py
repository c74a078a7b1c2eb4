"""Networks of six packages with random weights, and what is true about them.

The truth stands here by hand: the total stride of the features, or the patch size, and how many
tokens are no patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

from torch import nn

Size = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """A network and the truth about it.

    ``stride`` is that of the features (or the patch); ``extras`` the tokens before and after the
    patches, None for pictures; ``may_refuse`` says that an error is right, too.
    """

    name: str
    make: Callable[[], nn.Module]
    size: Size
    stride: int | Size
    extras: Size | None = None
    may_refuse: bool = False
    grid: Size | None = None
    floor: bool = False

    def truth(self) -> Size:
        if self.grid is not None:
            return self.grid
        stride = (self.stride, self.stride) if isinstance(self.stride, int) else self.stride
        divide = (lambda n, s: n // s) if self.floor else (lambda n, s: ceil(n / s))
        return divide(self.size[0], stride[0]), divide(self.size[1], stride[1])


def timm_cases() -> Iterator[Case]:
    import timm

    def make(name: str, **settings: Any) -> Callable[[], nn.Module]:
        return lambda: timm.create_model(name, num_classes=5, **settings)

    for name, stride, sizes in [
        ("resnet10t", 32, [(64, 64), (96, 160)]),
        ("resnet26d", 32, [(160, 64)]),
        ("seresnet18", 32, [(96, 96)])
        if "seresnet18" in timm.list_models()
        else ("ese_vovnet19b_slim", 32, [(96, 96)]),
        ("resnext26ts", 32, [(96, 128)]),
        ("gernet_s", 32, [(96, 128)]),
        ("ecaresnext26t_32x4d", 32, [(96, 128)]),
        ("skresnet18", 32, [(96, 128)]),
        ("resnest14d", 32, [(96, 128)]),
        ("res2net50_14w_8s", 32, [(96, 128)]),
        ("regnetx_002", 32, [(96, 128)]),
        ("regnety_002", 32, [(97, 131)]),
        ("regnetz_005", 32, [(96, 128)]),
        ("convnext_atto", 32, [(96, 160)]),
        ("convnextv2_atto", 32, [(160, 96)]),
        ("efficientnet_b0", 32, [(64, 96)]),
        ("efficientnet_lite0", 32, [(96, 96)]),
        ("tf_efficientnetv2_b0", 32, [(96, 128)]),
        ("mixnet_s", 32, [(96, 128)]),
        ("mnasnet_small", 32, [(96, 128)]),
        ("mobilenetv2_050", 32, [(96, 128)]),
        ("mobilenetv3_small_050", 32, [(96, 128)]),
        ("mobilenetv4_conv_small", 32, [(96, 128)]),
        ("lcnet_050", 32, [(96, 128)]),
        ("ghostnet_050", 32, [(96, 128)]),
        ("fbnetv3_b", 32, [(96, 128)]),
        ("hardcorenas_a", 32, [(96, 128)]),
        ("repvgg_a0", 32, [(96, 128)]),
        ("mobileone_s0", 32, [(96, 128)]),
        ("fastvit_t8", 32, [(128, 192)]),
        ("densenet121", 32, [(96, 128)]),
        ("dla34", 32, [(96, 128)]),
        ("hrnet_w18_small", 32, [(128, 128)]),
        ("selecsls42", 32, [(96, 128)]),
        ("vovnet39a", 32, [(96, 128)]),
        ("cspresnet50", 32, [(96, 128)]),
        ("darknet53", 32, [(96, 128)]),
        ("rexnet_100", 32, [(96, 128)]),
        ("nfnet_l0", 32, [(96, 128)]),
        ("resnetv2_50", 32, [(96, 128)]),
        ("edgenext_xx_small", 32, [(96, 128)]),
        ("inception_next_atto", 32, [(96, 128)]),
        ("poolformer_s12", 32, [(96, 128)]),
        ("caformer_s18", 32, [(96, 128)]),
        ("focalnet_tiny_srf", 32, [(96, 128)]),
        ("davit_tiny", 32, [(96, 128)]),
        ("pvt_v2_b0", 32, [(96, 128)]),
        ("coat_lite_tiny", 32, [(96, 96)]),
        ("tiny_vit_5m_224", 32, [(224, 224)]),
        ("efficientformer_l1", 32, [(224, 224)]),
        ("efficientvit_b0", 32, [(96, 128)]),
        ("mobilevit_xxs", 32, [(128, 192)]),
        ("mobilevitv2_050", 32, [(128, 192)]),
        ("repvit_m0_9", 32, [(96, 128)]),
        ("starnet_s1", 32, [(96, 128)]),
        ("hgnetv2_b0", 32, [(96, 128)]),
        ("tresnet_m", 32, [(96, 128)]),
        ("xception41", 32, [(96, 128)]),
        ("inception_v4", 32, [(171, 139)]),
        ("twins_pcpvt_small", 32, [(96, 128)]),
        ("maxvit_nano_rw_256", 32, [(256, 256)]),
        ("nextvit_small", 32, [(96, 128)]),
        ("visformer_tiny", 32, [(224, 224)]),
    ]:
        for size in sizes:
            settings = {}
            if name in ("coat_lite_tiny",):
                settings = {"img_size": size}
            grid = {"inception_v4": (4, 3), "selecsls42": (2, 2)}.get(name)
            extras = (1, 0) if name == "coat_lite_tiny" else None
            yield Case(f"timm/{name}", make(name, **settings), size, stride, extras, grid=grid)
    yield Case("timm/levit_128s", make("levit_128s"), (224, 224), 56, (0, 0), True)
    yield Case(
        "timm/tnt_s_legacy_patch16_224",
        make("tnt_s_legacy_patch16_224"),
        (224, 224),
        16,
        (1, 0),
        True,
    )
    yield Case("timm/crossvit_9_240", make("crossvit_9_240"), (240, 240), 16, (1, 0), True)
    for name, patch, extras, size in [
        ("vit_tiny_patch16_224", 16, (1, 0), (96, 64)),
        ("vit_tiny_patch16_224", 16, (1, 0), (64, 176)),
        ("deit_tiny_distilled_patch16_224", 16, (2, 0), (96, 64)),
        ("deit3_small_patch16_224", 16, (1, 0), (96, 64)),
        ("vit_small_patch14_dinov2", 14, (1, 0), (84, 56)),
        ("vit_small_patch14_reg4_dinov2", 14, (5, 0), (56, 84)),
        ("vit_small_patch14_reg4_dinov2", 14, (5, 0), (84, 56)),
        ("vit_small_patch14_reg4_dinov2", 14, (5, 0), (70, 70)),
        ("vit_small_patch16_dinov3", 16, (5, 0), (64, 96)),
        ("vit_small_patch16_dinov3", 16, (5, 0), (64, 128)),
        ("vit_base_patch16_siglip_224", 16, (0, 0), (64, 96)),
        ("vit_base_patch16_clip_224", 16, (1, 0), (96, 64)),
        ("eva02_tiny_patch14_224", 14, (1, 0), (84, 56)),
        ("beit_base_patch16_224", 16, (1, 0), (64, 64)),
        ("vit_base_patch16_rope_reg1_gap_256", 16, (1, 0), (64, 96)),
        ("vit_little_patch16_reg4_gap_256", 16, (4, 0), (64, 96)),
        ("vit_medium_patch16_gap_240", 16, (0, 0), (64, 96)),
        ("deit_tiny_patch16_224", 16, (1, 0), (32, 128)),
    ]:
        yield Case(
            f"timm/{name}", make(name, img_size=size, depth=2), size, patch, extras, floor=True
        )
    qk = {"img_size": (96, 64), "depth": 2}
    yield Case(
        "timm/vit q/k norm", make("vit_tiny_patch16_224", qk_norm=True, **qk), (96, 64), 16, (1, 0)
    )
    yield Case(
        "timm/vit 8 registers",
        make("vit_tiny_patch16_224", reg_tokens=8, **qk),
        (96, 64),
        16,
        (9, 0),
    )
    yield Case(
        "timm/vit average pooled",
        make("vit_tiny_patch16_224", global_pool="avg", class_token=False, **qk),
        (96, 64),
        16,
        (0, 0),
    )
    yield Case(
        "timm/cait_xxs24_224",
        make("cait_xxs24_224", img_size=(96, 64), depth=2),
        (96, 64),
        16,
        (0, 0),
    )
    yield Case(
        "timm/xcit_nano_12_p16_224",
        make("xcit_nano_12_p16_224", depth=2),
        (96, 64),
        16,
        (1, 0),
        True,
    )
    yield Case(
        "timm/mixer_s32_224",
        make("mixer_s32_224", img_size=(96, 96)) if False else make("mixer_s32_224"),
        (224, 224),
        32,
        (0, 0),
    )
    yield Case(
        "timm/gmixer_24_224",
        make(
            "gmixer_24_224",
        ),
        (224, 224),
        16,
        (0, 0),
    )
    yield Case("timm/convit_tiny", make("convit_tiny"), (224, 224), 16, (1, 0))
    yield Case("timm/pit_ti_224", make("pit_ti_224"), (224, 224), 32, (1, 0), True)
    yield Case(
        "timm/swin_tiny",
        make("swin_tiny_patch4_window7_224", img_size=(64, 128), window_size=2),
        (64, 128),
        32,
    )
    yield Case(
        "timm/swinv2_tiny", make("swinv2_cr_tiny_ns_224", img_size=(224, 224)), (224, 224), 32
    )
    yield Case("timm/swinv2_tiny_window8", make("swinv2_tiny_window8_256"), (256, 256), 32)
    yield Case("timm/hiera_tiny_224", make("hiera_tiny_224"), (224, 224), 32)
    yield Case("timm/nest_tiny_jx", make("nest_tiny_jx"), (224, 224), 16, may_refuse=True)
    yield Case("timm/volo_d1_224", make("volo_d1_224"), (224, 224), 16, (1, 0), may_refuse=True)
    yield Case("timm/mvitv2_tiny", make("mvitv2_tiny"), (224, 224), 32, (0, 0))
    yield Case(
        "timm/sequencer2d_s", make("sequencer2d_s"), (224, 224), 14, may_refuse=True, grid=(16, 16)
    )


def torchvision_cases() -> Iterator[Case]:
    from torchvision import models
    from torchvision.models import segmentation

    for name, size in [
        ("resnet18", (64, 96)),
        ("vgg11", (96, 64)),
        ("densenet121", (96, 64)),
        ("squeezenet1_1", (96, 128)),
        ("mobilenet_v2", (96, 64)),
        ("mobilenet_v3_small", (96, 128)),
        ("shufflenet_v2_x0_5", (64, 96)),
        ("mnasnet0_5", (96, 128)),
        ("regnet_y_400mf", (96, 128)),
        ("efficientnet_b0", (64, 96)),
        ("convnext_tiny", (64, 96)),
        ("wide_resnet50_2", (64, 96)),
    ]:
        stride = 16 if name == "squeezenet1_1" else 32
        grid = {"squeezenet1_1": (5, 7)}.get(name)
        yield Case(
            f"torchvision/{name}",
            lambda name=name: getattr(models, name)(weights=None, num_classes=5),
            size,
            stride,
            grid=grid,
        )
    yield Case(
        "torchvision/alexnet", lambda: models.alexnet(num_classes=5), (96, 128), 32, grid=(2, 3)
    )
    yield Case(
        "torchvision/googlenet",
        lambda: models.googlenet(num_classes=5, aux_logits=False, init_weights=False),
        (96, 128),
        32,
    )
    yield Case("torchvision/swin_t", lambda: models.swin_t(num_classes=5), (64, 96), 32)
    yield Case("torchvision/swin_v2_t", lambda: models.swin_v2_t(num_classes=5), (64, 96), 32)
    yield Case("torchvision/maxvit_t", lambda: models.maxvit_t(num_classes=5), (224, 224), 32)
    yield Case(
        "torchvision/vit",
        lambda: models.VisionTransformer(64, 8, 3, 2, 32, 64, num_classes=5),
        (64, 64),
        8,
        (1, 0),
    )
    for name, stride in [
        ("fcn_resnet50", 8),
        ("deeplabv3_resnet50", 8),
        ("lraspp_mobilenet_v3_large", 0),
        ("deeplabv3_mobilenet_v3_large", 16),
    ]:
        yield Case(
            f"torchvision/{name}",
            lambda name=name: getattr(segmentation, name)(
                weights=None, weights_backbone=None, num_classes=5
            ),
            (64, 96),
            stride,
            may_refuse=True,
        )


def transformers_cases() -> Iterator[Case]:
    import transformers as hf

    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_labels": 5,
    }
    for kind, config, patch, extras in [
        (
            "ViTForImageClassification",
            hf.ViTConfig(image_size=(64, 96), patch_size=16, **small),
            16,
            (1, 0),
        ),
        (
            "DeiTForImageClassification",
            hf.DeiTConfig(image_size=(64, 96), patch_size=16, **small),
            16,
            (2, 0),
        ),
        (
            "Dinov2ForImageClassification",
            hf.Dinov2Config(
                image_size=64,
                patch_size=16,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_labels=5,
            ),
            16,
            (1, 0),
        ),
        (
            "Dinov2WithRegistersForImageClassification",
            hf.Dinov2WithRegistersConfig(
                image_size=64,
                patch_size=16,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_labels=5,
            ),
            16,
            (5, 0),
        ),
        (
            "SiglipForImageClassification",
            hf.SiglipConfig(
                vision_config={**small, "image_size": 64, "patch_size": 16}, num_labels=5
            ),
            16,
            (0, 0),
        ),
        (
            "CLIPForImageClassification",
            hf.CLIPConfig(
                vision_config={**small, "image_size": 64, "patch_size": 16}, num_labels=5
            ),
            16,
            (1, 0),
        ),
        (
            "BeitForImageClassification",
            hf.BeitConfig(image_size=64, patch_size=16, **small),
            16,
            (1, 0),
        ),
        (
            "ResNetForImageClassification",
            hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5),
            8,
            None,
        ),
        (
            "ConvNextForImageClassification",
            hf.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_labels=5),
            32,
            None,
        ),
        (
            "SwinForImageClassification",
            hf.SwinConfig(
                image_size=64,
                embed_dim=16,
                depths=[1, 1],
                num_heads=[2, 2],
                window_size=4,
                num_labels=5,
            ),
            8,
            (0, 0),
        ),
        (
            "YolosForObjectDetection",
            hf.YolosConfig(
                image_size=[64, 96],
                patch_size=16,
                num_detection_tokens=10,
                **small,
            ),
            16,
            (1, 10),
        ),
        (
            "SegformerForSemanticSegmentation",
            hf.SegformerConfig(num_labels=5),
            4,
            None,
        ),
        ("MobileViTForImageClassification", hf.MobileViTConfig(num_labels=5), 32, None),
        ("PvtV2ForImageClassification", hf.PvtV2Config(num_labels=5), 32, None),
    ]:

        def make(kind: str = kind, config: Any = config) -> nn.Module:
            return getattr(hf, kind)(config)

        size = (64, 96)
        if kind[:4] in ("Sigl", "CLIP", "Beit", "Swin"):
            size = (64, 64)
        if kind.startswith("MobileViT"):
            size = (128, 192)
        may = kind.startswith(("Yolos", "Segformer"))
        yield Case(f"transformers/{kind}", make, size, patch, extras, may)


def other_cases() -> Iterator[Case]:
    import segmentation_models_pytorch as smp
    from monai.networks import nets
    from vit_pytorch import ViT, cait, deepvit, pit, simple_vit, t2t

    for name in [
        "Unet",
        "UnetPlusPlus",
        "FPN",
        "PSPNet",
        "DeepLabV3",
        "DeepLabV3Plus",
        "Linknet",
        "MAnet",
        "PAN",
        "Segformer",
        "UPerNet",
    ]:
        yield Case(
            f"smp/{name}",
            lambda name=name: getattr(smp, name)("resnet18", encoder_weights=None, classes=4),
            (128, 128),
            0,
            may_refuse=True,
        )
    yield Case(
        "smp/Unet binary",
        lambda: smp.Unet("mobilenet_v2", encoder_weights=None, classes=1),
        (64, 96),
        0,
        may_refuse=True,
    )
    flat = {"spatial_dims": 2}
    yield Case(
        "monai/DenseNet121",
        lambda: nets.DenseNet121(in_channels=3, out_channels=5, **flat),
        (96, 64),
        32,
    )
    yield Case(
        "monai/resnet18",
        lambda: nets.resnet18(n_input_channels=3, num_classes=5, **flat),
        (96, 64),
        8,
        may_refuse=True,
        grid=(6, 4),
    )
    yield Case(
        "monai/SEResNet50",
        lambda: nets.SEResNet50(in_channels=3, num_classes=5, **flat),
        (96, 64),
        32,
    )
    yield Case(
        "monai/EfficientNetBN",
        lambda: nets.EfficientNetBN("efficientnet-b0", pretrained=False, num_classes=5),
        (96, 64),
        32,
    )
    yield Case(
        "monai/ViT",
        lambda: nets.ViT(
            3,
            (64, 96),
            (16, 16),
            hidden_size=32,
            mlp_dim=64,
            num_layers=2,
            num_heads=2,
            classification=True,
            num_classes=5,
            **flat,
        ),
        (64, 96),
        16,
        (1, 0),
    )
    yield Case(
        "monai/UNet",
        lambda: nets.UNet(
            in_channels=3, out_channels=4, channels=(8, 16, 32), strides=(2, 2), **flat
        ),
        (64, 96),
        0,
        may_refuse=True,
    )
    yield Case(
        "monai/BasicUNet",
        lambda: nets.BasicUNet(in_channels=3, out_channels=4, **flat),
        (64, 96),
        0,
        may_refuse=True,
    )
    yield Case(
        "monai/SegResNet",
        lambda: nets.SegResNet(in_channels=3, out_channels=4, **flat),
        (64, 96),
        0,
        may_refuse=True,
    )
    yield Case(
        "monai/AttentionUnet",
        lambda: nets.AttentionUnet(
            in_channels=3, out_channels=4, channels=(8, 16, 32), strides=(2, 2), **flat
        ),
        (64, 96),
        0,
        may_refuse=True,
    )
    small = {"patch_size": 16, "num_classes": 5, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 64}
    yield Case("vit-pytorch/ViT", lambda: ViT(image_size=(64, 96), **small), (64, 96), 16, (1, 0))
    yield Case(
        "vit-pytorch/SimpleViT",
        lambda: simple_vit.SimpleViT(image_size=(64, 96), **small),
        (64, 96),
        16,
        (0, 0),
    )
    yield Case(
        "vit-pytorch/DeepViT", lambda: deepvit.DeepViT(image_size=64, **small), (64, 64), 16, (1, 0)
    )
    yield Case(
        "vit-pytorch/CaiT",
        lambda: cait.CaiT(image_size=64, cls_depth=1, **small),
        (64, 64),
        16,
        (0, 0),
    )
    yield Case(
        "vit-pytorch/T2TViT",
        lambda: t2t.T2TViT(
            image_size=64,
            dim=32,
            depth=2,
            heads=2,
            mlp_dim=64,
            num_classes=5,
            t2t_layers=((7, 4), (3, 2), (3, 2)),
        ),
        (64, 64),
        16,
        (1, 0),
    )
    yield Case(
        "vit-pytorch/PiT",
        lambda: pit.PiT(
            image_size=64, patch_size=8, dim=32, depth=(1, 1), heads=2, mlp_dim=64, num_classes=5
        ),
        (64, 64),
        8,
        (1, 0),
        True,
    )


def every_case() -> Iterator[Case]:
    """Return all of them, package by package."""
    for cases in (timm_cases, torchvision_cases, transformers_cases, other_cases):
        yield from cases()
