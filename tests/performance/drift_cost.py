"""What measuring drift costs, beside the explanation itself: Grad-CAM of 64 samples at 224 px."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from timing import alternate, spread
from torchvision.models import resnet18

from lightning_saliency.attribution import GradCAM
from lightning_saliency.callbacks.explanation import Explanation
from lightning_saliency.callbacks.stages.drift import DriftTracker

SAMPLES, SIDE = 64, 224
ROUNDS = 3


def main() -> dict[str, Any]:
    """Explain, and measure drift against both references, in alternation; print the ratio."""
    torch.manual_seed(0)
    model = resnet18(num_classes=10).eval()
    images = torch.randn(SAMPLES, 3, SIDE, SIDE)
    classes = torch.arange(SAMPLES) % 10
    method = GradCAM("layer4")
    maps = method(model, images, classes)
    before, after = (_explanation(maps, classes, seed) for seed in (0, 1))
    tracker = DriftTracker()
    tracker.measure(before)

    def measure() -> None:
        tracker.measure(after)
        tracker.measure(before)

    seconds = alternate({"explain": lambda: method(model, images, classes), "two": measure}, ROUNDS)
    explain = statistics.median(seconds["explain"])
    drift = statistics.median(seconds["two"]) / 2
    print(f"\n{SAMPLES} samples at {SIDE} px, ResNet-18, CPU seconds:")
    print(f"  Grad-CAM itself              {spread(seconds['explain'])}")
    print(f"  drift, two references        {spread([each / 2 for each in seconds['two']])}")
    print(f"  drift / explanation          {drift / explain:.3f}")
    return {"seconds": seconds, "ratio": drift / explain}


def _explanation(maps: torch.Tensor, classes: torch.Tensor, seed: int) -> Explanation:
    """Return the maps with some noise: neither equal nor degenerate, like those of two epochs."""
    noise = torch.rand(maps.shape, generator=torch.Generator().manual_seed(seed))
    probability = torch.full((len(maps),), 0.5)
    saliency = maps + 0.1 * maps.amax() * noise
    return Explanation(saliency, classes, classes, probability, probability.log())


if __name__ == "__main__":
    main()
