"""Small networks that the tests explain, with the traits of the real ones.

All take (N, channels, H, W) of any size from 8 x 8 and return (N, 5) logits; all have a part called
``features`` that puts out a picture and a last linear layer called ``head``.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 5


class VGGLike(nn.Module):
    """A chain with BatchNorm, dropout and in-place ReLU."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Dropout(), nn.Linear(32, 12), nn.ReLU(inplace=True), nn.Dropout()
        )
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.pool(self.features(x))))


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class ResidualLike(nn.Module):
    """ResNet's block: a ReLU used twice, an in-place addition, pooling to one place."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 3, stride=2, padding=1)
        self.features = nn.Sequential(ResidualBlock(6), ResidualBlock(6))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(torch.relu_(self.stem(x)))
        return self.head(self.dropout(torch.flatten(self.pool(x), 1)))


class FunctionalLike(nn.Module):
    """Every ReLU is a function or a tensor method, and there are two branches."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 3, padding=1)
        self.features = nn.Conv2d(6, 8, 3, padding=1)
        self.branch = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = torch.cat([self.features(x).relu(), torch.relu(self.branch(x))], 1)
        return self.head(F.dropout(x.mean((2, 3)), 0.3, self.training))


MODELS: dict[str, type[nn.Module]] = {
    "vgg": VGGLike,
    "residual": ResidualLike,
    "functional": FunctionalLike,
}


def make_model(
    kind: str = "vgg", channels: int = 3, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Return a model in eval mode, with weights and running statistics from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = MODELS[kind](channels)
        with torch.no_grad():
            for _ in range(2):
                model(torch.randn(8, channels, 16, 16))
    return model.eval().to(dtype)


def make_images(
    count: int = 2,
    size: tuple[int, int] = (16, 20),
    channels: int = 3,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return (count, channels, *size) from a fixed seed."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, channels, *size, generator=generator).to(dtype)


def in_training(model: nn.Module) -> nn.Module:
    """Bring a model into the middle of its training, the state that is easiest to spoil.

    It is in training mode but for one frozen BatchNorm, its first weight is frozen, and the other
    parameters hold the gradients of a first accumulation step.
    """
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms[:1]:
        norm.eval()
    next(model.parameters()).requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    for parameter in list(model.parameters())[1:]:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model


class Returns(nn.Module):
    """Runs the usual model and returns something made of its logits."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner = make_model()
        # The named layers are found in this model as in the one that it wraps.
        self.features, self.head = self.inner.features, self.inner.head
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.inner(x))
