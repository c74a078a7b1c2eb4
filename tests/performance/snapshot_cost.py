"""What it costs to leave no trace: the contexts around an explanation, beside one forward pass."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from timing import alternate
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torchvision.models import resnet18, resnet50, vit_b_16

from lightning_saliency.network.isolation.undisturbed import undisturbed

ROUNDS = 9


def thousand_modules() -> nn.Module:
    """Return a network of 1,001 modules that do little."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(250)]
    return nn.Sequential(*blocks)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "ResNet-18": (resnet18, (3, 224)),
    "ResNet-50": (resnet50, (3, 224)),
    "ViT-base": (vit_b_16, (3, 224)),
    "1,001 modules": (thousand_modules, (4, 32)),
}


def main(quick: bool = False) -> dict[str, Any]:
    """Measure each model; print and return CPU milliseconds and MiB."""
    results: dict[str, Any] = {}
    print(f"\n{'CPU ms, median of rounds':24s} outer  asked  inner  forward   MiB  asked  weights")
    for name, (make, (channels, side)) in MODELS.items():
        model = make().train()
        image = torch.rand(1, channels, side, side)
        row = _times(model, image, 3 if quick else ROUNDS)
        row["mib"], row["mib asked"] = (
            _peak(lambda m=model: _outer(m)),
            _peak(lambda m=model: _asked(m)),
        )
        row["weights"] = sum(p.nbytes for p in model.parameters()) / 2**20
        results[name] = row
        print(
            f"{name:24s} {row['outer']:5.1f}  {row['asked']:5.1f}  {row['inner']:5.1f}  "
            f"{row['forward']:7.1f}  {row['mib']:4.1f}  {row['mib asked']:5.0f}  "
            f"{row['weights']:7.0f}"
        )
    print("  asked: somebody other than torch's own layers asks for all of the weights")
    return results


def _times(model: nn.Module, image: torch.Tensor, rounds: int) -> dict[str, float]:
    def forward() -> None:
        with torch.no_grad():
            model(image)

    def inner() -> None:
        with undisturbed(model):
            pass

    rivals = {"outer": lambda: _outer(model), "asked": lambda: _asked(model), "forward": forward}
    seconds = alternate(rivals, rounds)
    with undisturbed(model):
        seconds |= alternate({"inner": inner}, rounds)
    return {name: 1000 * statistics.median(times) for name, times in seconds.items()}


def _outer(model: nn.Module) -> None:
    with undisturbed(model):
        pass


def _asked(model: nn.Module) -> None:
    with undisturbed(model):
        list(model.parameters())


def _peak(run: Callable[[], object]) -> float:
    """Return the largest number of MiB that torch has given out at a time while ``run`` runs."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    assert found.profiler is not None
    record = found.profiler.kineto_results.events()
    steps = sorted((e.start_ns(), e.nbytes()) for e in record if e.name() == "[memory]")
    in_use, most = 0, 0
    for _, change in steps:
        in_use += change
        most = max(most, in_use)
    return most / 2**20


if __name__ == "__main__":
    main()
