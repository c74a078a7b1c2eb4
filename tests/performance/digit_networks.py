"""Networks trained on pictures of digits over clutter, 64 x 64 pixels; trained once, then read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer, resnet18
from torchvision.models.vision_transformer import ConvStemConfig
from torchvision.ops import SqueezeExcitation

from lightning_saliency.benchmark.cluttered_digits import ClutteredDigits

__all__ = ["CACHE", "NETWORKS", "digits", "gated_cnn", "small_cnn", "small_vit", "trained"]

# Not kept in git.
CACHE = Path(__file__).parents[2] / "build" / "bench"

_PICTURES = 4000
_BATCH = 50
_SHIFT = 10  # pixels


def small_cnn() -> nn.Module:
    """Return four convolutions of 16 to 64 channels with BatchNorm, and one linear layer."""
    layers: list[nn.Module] = []
    channels = 3
    for i, width in enumerate((16, 32, 64, 64)):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i < 3 else [nn.AdaptiveAvgPool2d(1)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10))


def gated_cnn() -> nn.Module:
    """Return :func:`small_cnn` with SiLU, and squeeze and excitation after each convolution."""
    layers: list[nn.Module] = []
    channels = 3
    for i, width in enumerate((16, 32, 64, 64)):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.SiLU()]
        layers += [SqueezeExcitation(width, width // 4)]
        layers += [nn.MaxPool2d(2)] if i < 3 else [nn.AdaptiveAvgPool2d(1)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10))


def small_vit() -> nn.Module:
    """Return torchvision's vision transformer of four blocks on 8 x 8 tokens."""
    stem = [ConvStemConfig(width, 3, 2) for width in (16, 32, 64)]
    return VisionTransformer(64, 8, 4, 4, 64, 128, num_classes=10, conv_stem_configs=stem)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, float]] = {
    # What makes it, epochs, largest learning rate.
    "small": (small_cnn, 6, 4e-3),
    "gated": (gated_cnn, 6, 4e-3),
    "vit": (small_vit, 20, 2e-3),
    "resnet18": (partial(resnet18, num_classes=10), 3, 2e-3),
}


def digits(split: str, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return normalized pictures, labels, and the digits' strokes (count, H, W)."""
    data = ClutteredDigits(split, count, seed=seed)  # type: ignore[arg-type]
    images, labels, masks = zip(*(data[i] for i in range(count)), strict=True)
    return (torch.stack(images) - 0.5) / 0.25, torch.tensor(labels), torch.cat(masks)


def trained(name: str, seed: int = 0) -> tuple[nn.Module, float]:
    """Return a network in eval mode with frozen parameters, and its accuracy on other pictures."""
    path = CACHE / f"{name}_{seed}.pt"
    make = NETWORKS[name][0]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = _train(name, seed)
        torch.save({"weights": model.state_dict(), "accuracy": _accuracy(model)}, path)
    kept = torch.load(path, weights_only=True)
    model = make().eval().requires_grad_(False)
    model.load_state_dict(kept["weights"])
    return model, kept["accuracy"]


def _train(name: str, seed: int) -> nn.Module:
    make, epochs, rate = NETWORKS[name]
    torch.manual_seed(seed)
    model = make()
    images, labels, _ = digits("train", _PICTURES, seed)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    steps = epochs * (_PICTURES // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(_PICTURES).split(_BATCH):
            shown = images[batch]
            if name == "vit":
                # It would learn the pictures by heart.
                shift = torch.randint(-_SHIFT, _SHIFT + 1, (2,)).tolist()
                shown = shown.roll(shift, (2, 3))[:, torch.randperm(3)]
            loss = F.cross_entropy(model(shown), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def _accuracy(model: nn.Module) -> float:
    images, labels, _ = digits("val", 350)
    right = torch.cat([model(some).argmax(1) for some in images.split(_BATCH)]) == labels
    return float(right.float().mean())
