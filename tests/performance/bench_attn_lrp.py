"""AttnLRP against a forward and a backward pass of the same network.

python tests/performance/bench.py attn_lrp
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from digit_networks import NETWORKS
from timing import alternate, ratio, table, verdict
from torch import Tensor, nn
from torchvision import models

from lightning_saliency.attribution import AttnLRP

BATCH, SIDE = 8, 64
WANTED = 1.7


def vit() -> nn.Module:
    """Return a vision transformer as wide as ViT-Tiny, with four blocks, on 8 x 8 tokens."""
    return models.VisionTransformer(SIDE, 8, 4, 3, 192, 768, num_classes=10)


NETWORKS_TRIED: dict[str, Callable[[], nn.Module]] = {
    "ViT": vit,
    "Swin-T": partial(models.swin_t, num_classes=10),
    "Swin V2-T": partial(models.swin_v2_t, num_classes=10),
    "ConvNeXt-T": partial(models.convnext_tiny, num_classes=10),
    "EfficientNet-B0": partial(models.efficientnet_b0, num_classes=10),
    "MobileNetV3-S": partial(models.mobilenet_v3_small, num_classes=10),
    "ResNet-18": NETWORKS["resnet18"][0],
}


def passes(model: nn.Module, images: Tensor, target: list[int]) -> None:
    """Make a forward pass, and a backward pass down to the images."""
    leaf = images.clone().requires_grad_()
    score = model(leaf).gather(1, torch.tensor(target)[:, None]).sum()
    torch.autograd.grad(score, leaf)


def main(quick: bool = False) -> dict[str, Any]:
    """Measure; print and return the table."""
    rounds = 3 if quick else 11
    rows, results = [], {}
    for name, make in NETWORKS_TRIED.items():
        torch.manual_seed(0)
        model = make().eval().requires_grad_(False)
        images, target = torch.rand(BATCH, 3, SIDE, SIDE), [i % 10 for i in range(BATCH)]
        gamma = AttnLRP(conv_gamma=0.25, linear_gamma=0.05)
        seconds = alternate(
            {
                "bare": partial(passes, model, images, target),
                "epsilon": partial(AttnLRP(), model, images, target),
                "gamma": partial(gamma, model, images, target),
            },
            rounds,
        )
        rows.append(verdict(f"{name}, epsilon", ratio(seconds, "epsilon", "bare"), WANTED))
        rows.append(verdict(f"{name}, gamma", ratio(seconds, "gamma", "bare"), 7.0))
        results[name] = seconds
    title = f"AttnLRP / (forward + backward), {BATCH} images of {SIDE} px: median of {rounds}"
    print(table(title, rows))
    return {"rows": rows, "seconds": results}


if __name__ == "__main__":
    main()
