"""Every method on the pretend accelerator, beside the CPU; writes what was found as JSON.

Run as ``python pretend_runs.py OUT``: in a process of its own, because the device stays.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from contract import METHODS, make_method  # noqa: E402
from pretend_device import NAME, counted_waits, set_up  # noqa: E402
from tiny_models import make_images, make_model  # noqa: E402

# Small, and the same with more of what a method repeats.
FEW: dict[str, dict[str, Any]] = {
    "RISE": {"num_masks": 256},
    "ExtremalPerturbation": {"max_iter": 2},
}
MORE: dict[str, dict[str, Any]] = {
    "RISE": {"num_masks": 1024},
    "ExtremalPerturbation": {"max_iter": 8},
}


class Deep(nn.Module):
    """The usual model with more layers and buffers before it."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.before = nn.Sequential(*(nn.BatchNorm2d(3) for _ in range(layers)))
        self.inner = make_model()
        self.before.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.before(x))


def explain(name: str, settings: dict[str, Any], images: Tensor, model: nn.Module) -> Tensor:
    targets = [i % 5 for i in range(len(images))]
    return make_method(name, **settings)(model, images, targets)


def compare(name: str) -> dict[str, Any]:
    few, more = FEW.get(name, {}), MORE.get(name, {})
    images, many = make_images(2), make_images(6)
    wanted = explain(name, few, images, make_model())
    model = make_model().to(NAME)
    found: dict[str, Any] = {"waits": {}}
    runs = {
        "few": (few, images, model),
        "more iterations": (more, images, model),
        "more images": (few, many, model),
        "few layers": (few, images, Deep(1).to(NAME)),
        "more layers": (few, images, Deep(7).to(NAME)),
    }
    for case, (settings, some, network) in runs.items():
        with counted_waits() as waits:
            came = explain(name, settings, some.to(NAME), network)
        found["waits"][case] = dict(waits.lines)
        if case == "few":
            found["device"] = str(came.device)
            found["difference"] = float((came.cpu() - wanted).abs().max() / wanted.abs().max())
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    set_up()
    Path(sys.argv[1]).write_text(json.dumps({name: compare(name) for name in METHODS}))


if __name__ == "__main__":
    main()
