"""Training on the pretend accelerator with a callback, beside the CPU; writes JSON.

Run as ``python pretend_fit.py OUT``: in a process of its own, because the device stays.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE / "callbacks")]

from pretend_device import NAME, counted_waits, set_up  # noqa: E402
from small_runs import TinyModule, make_trainer, train_loader, val_loader  # noqa: E402

from lightning_saliency import SaliencyCallback  # noqa: E402
from lightning_saliency.attribution import GradCAM, Gradient  # noqa: E402


class PretendAccelerator(Accelerator):
    """What Lightning needs to know of the device."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing has to be set up."""

    def teardown(self) -> None:
        """Nothing has to be cleared."""

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        """Return none."""
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> list[int]:
        return [0]

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


class Counting(SaliencyCallback):
    """Counts the waits of each explanation and what follows it."""

    def __init__(self, samples: int) -> None:
        super().__init__([Gradient(), GradCAM()], samples=samples, on_error="raise")
        self.waits: list[dict[str, int]] = []

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        with counted_waits() as waits:
            super().on_validation_epoch_end(trainer, pl_module)
        if not trainer.sanity_checking:
            self.waits.append(dict(waits.lines))


def train(samples: int, **settings: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    callback, module = Counting(samples), TinyModule()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(Path(folder), callback, max_epochs=3, **settings)
        trainer.fit(module, train_loader(), val_loader())
    numbers = {tag: float(value) for tag, value in trainer.callback_metrics.items()}
    numbers.pop("saliency_overhead")
    return {"numbers": numbers, "waits": callback.waits}


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    set_up()
    found = {"cpu": train(6)}
    for samples in (3, 6):
        strategy = SingleDeviceStrategy(device=torch.device(NAME, 0))
        found[f"{samples} samples"] = train(
            samples, accelerator=PretendAccelerator(), strategy=strategy
        )
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
