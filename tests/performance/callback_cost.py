"""What the callback adds to the training of the first run: gradient and Grad-CAM, 8 samples."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from timing import spread
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.benchmark import ClutteredDigits

PICTURES = 8000
EPOCHS = 7
ROUNDS = 2
WANTED = 0.02


def main() -> dict[str, Any]:
    """Train as the first run does, with and without the callback in alternation.

    Prints and returns what it adds in each round, measured in two ways. The difference of the two
    trainings holds everything, and noise: it is a percent of some minutes. What passes inside the
    callback's hooks is exact; they are made to wait until the logger's thread has written all that
    they gave it, so that its time is in theirs.
    """
    torch.set_num_threads(1)
    demo = first_run()
    val = demo.draw(ClutteredDigits("val", with_mask=False))
    train = demo.draw(ClutteredDigits("train", length=PICTURES, with_mask=False))
    rounds = []
    with tempfile.TemporaryDirectory() as folder:

        def fit(callbacks: list[pl.Callback], epochs: int, data: TensorDataset) -> float:
            torch.manual_seed(0)
            trainer = pl.Trainer(
                max_epochs=epochs,
                accelerator="cpu",
                callbacks=callbacks,
                logger=TensorBoardLogger(folder),
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
            )
            start = time.process_time()
            trainer.fit(
                demo.DigitClassifier(),
                DataLoader(data, demo.BATCH_SIZE, shuffle=True, drop_last=True),
                DataLoader(val, demo.BATCH_SIZE),
            )
            return time.process_time() - start

        # Untimed: what is done once in a process, such as loading fonts.
        fit([_Booked()], 1, TensorDataset(*(part[:256] for part in train.tensors)))
        for number in range(1, ROUNDS + 1):
            without = fit([], EPOCHS, train)
            callback = _Booked()
            with_it = fit([callback], EPOCHS, train)
            rounds.append(
                {
                    "without": without,
                    "with": with_it,
                    "added": with_it / without - 1,
                    "in_hooks": callback.seconds,
                    "share": callback.seconds / (with_it - callback.seconds),
                }
            )
            _print_round(number, rounds[-1])
    print(f"\nfirst run, {EPOCHS} epochs of {PICTURES} pictures, {ROUNDS} rounds, in percent:")
    print(f"  added, difference of trainings  {spread([100 * each['added'] for each in rounds])}")
    print(f"  added, inside the hooks         {spread([100 * each['share'] for each in rounds])}")
    print(f"  wanted                          below {100 * WANTED:g}")
    return {"rounds": rounds, "wanted": WANTED}


def _print_round(number: int, found: dict[str, float]) -> None:
    print(
        f"  round {number}, CPU seconds: {found['without']:.1f} without, {found['with']:.1f} with "
        f"({found['added']:+.2%}); {found['in_hooks'] / EPOCHS:.3f} for each explanation in the "
        f"hooks ({found['share']:.2%})",
        flush=True,
    )


class _Booked(SaliencyCallback):
    """Adds up the CPU time of all its hooks, that of the logger's thread with them."""

    seconds = 0.0

    def __init__(self) -> None:
        super().__init__([Gradient(), GradCAM()], samples=8)
        self._inside = False

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return self._timed(value) if name.startswith("on_") and callable(value) else value

    def _timed(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(hook)
        def run(trainer: pl.Trainer, *args: Any, **kwargs: Any) -> Any:
            outermost, self._inside = not self._inside, True
            start = time.process_time()
            result = hook(trainer, *args, **kwargs)
            if outermost:
                if hook.__name__ in ("on_validation_epoch_end", "on_fit_end"):
                    trainer.logger.experiment.flush()
                self.seconds += time.process_time() - start
                self._inside = False
            return result

        return run


def first_run() -> ModuleType:
    """Return the module of examples/first_run.py."""
    path = Path(__file__).parents[2] / "examples" / "first_run.py"
    spec = importlib.util.spec_from_file_location("first_run", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
