"""What the callback adds to the training of the first run: gradient and Grad-CAM, 8 samples."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from timing import alternate, spread
from torch.utils.data import DataLoader

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.benchmark import ClutteredDigits

PICTURES = 8000
EPOCHS = 7
ROUNDS = 2


def main() -> dict[str, Any]:
    """Train with and without the callback in alternation; print and return the shares."""
    demo = _first_run()
    train = demo.draw(ClutteredDigits("train", length=PICTURES, with_mask=False))
    val = demo.draw(ClutteredDigits("val", with_mask=False))
    booked: list[float] = []

    def fit(callbacks: list[pl.Callback], folder: str) -> None:
        torch.manual_seed(0)
        trainer = pl.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            callbacks=callbacks,
            logger=TensorBoardLogger(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(
            demo.DigitClassifier(),
            DataLoader(train, demo.BATCH_SIZE, shuffle=True, drop_last=True),
            DataLoader(val, demo.BATCH_SIZE),
        )

    with tempfile.TemporaryDirectory() as folder:
        seconds = alternate(
            {
                "without": lambda: fit([], folder),
                "with": lambda: fit([_Booked(booked)], folder),
            },
            ROUNDS,
        )
    without = statistics.median(seconds["without"])
    added = statistics.median(seconds["with"]) / without - 1
    # The difference of two runs of a minute is noisy; what passes inside the hooks is not.
    inside = statistics.median(booked[1:]) / without
    print(f"first run, {EPOCHS} epochs of {PICTURES} pictures, CPU seconds:")
    print(f"  without the callback  {spread(seconds['without'])}")
    print(f"  with it               {spread(seconds['with'])}")
    print(f"  added                 {added:.2%} (difference of the medians)")
    print(f"  inside its hooks      {inside:.2%}")
    return {"seconds": seconds, "added": added, "inside_hooks": inside}


class _Booked(SaliencyCallback):
    """Adds up the CPU time of all its hooks, one sum for each fit."""

    def __init__(self, booked: list[float]) -> None:
        super().__init__([Gradient(), GradCAM()], samples=8)
        self._booked = booked
        booked.append(0.0)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name.startswith("on_") and callable(value):
            return self._timed(value)
        return value

    def _timed(self, hook: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return hook(*args, **kwargs)
            finally:
                self._booked[-1] += time.process_time() - start

        return run


def _first_run() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "first_run.py"
    spec = importlib.util.spec_from_file_location("first_run", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
