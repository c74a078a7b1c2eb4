"""What the callback adds to the training of the first run: gradient and Grad-CAM, 8 samples."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from timing import table, verdict
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from watched_runs import first_run

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.benchmark import ClutteredDigits

PICTURES, EPOCHS = 8000, 7
# An explanation costs the same after a short epoch, and does not drown in the noise of training.
FEW_PICTURES = 640
ROUNDS = 7
WANTED = 0.02


def main() -> dict[str, Any]:
    """Train as the first run does, with and without the callback in alternation.

    Prints and returns what it adds, as a share of the first run's training, in two ways. The
    difference of trainings holds everything. Over the whole first run it is a percent of some
    minutes, less than their noise; so it is taken from trainings of as many epochs of fewer
    pictures, where it is a third. What passes inside the callback's hooks is taken from the whole
    first run. There the hooks are made to wait until the logger's thread has written all that they
    gave it, so that its time is in theirs.
    """
    torch.set_num_threads(1)
    demo = first_run()
    val = demo.draw(ClutteredDigits("val", with_mask=False))
    train = demo.draw(ClutteredDigits("train", length=PICTURES, with_mask=False))
    with tempfile.TemporaryDirectory() as folder:

        def fit(callbacks: list[pl.Callback], pictures: int, epochs: int = EPOCHS) -> float:
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
            data = TensorDataset(*(part[:pictures] for part in train.tensors))
            start = time.process_time()
            trainer.fit(
                demo.DigitClassifier(),
                DataLoader(data, demo.BATCH_SIZE, shuffle=True, drop_last=True),
                DataLoader(val, demo.BATCH_SIZE),
            )
            return time.process_time() - start

        # Untimed: what is done once in a process, such as loading fonts.
        fit([_Booked()], 256, 1)
        whole = fit([], PICTURES)
        booked = _Booked()
        fit([booked], PICTURES)
        in_hooks = booked.seconds / whole
        print(
            f"\nfirst run, {EPOCHS} epochs of {PICTURES} pictures: {whole:.0f} CPU seconds without "
            f"the callback; in its hooks {booked.seconds / EPOCHS:.3f} for each explanation",
            flush=True,
        )
        added = []
        for number in range(1, ROUNDS + 1):
            without, with_it = fit([], FEW_PICTURES), fit([_Booked()], FEW_PICTURES)
            added.append(with_it - without)
            print(
                f"  {EPOCHS} epochs of {FEW_PICTURES}, round {number}: {without:.2f} without, "
                f"{with_it:.2f} with; {added[-1] / EPOCHS:.3f} for each explanation",
                flush=True,
            )
    by_difference = statistics.median(added) / whole
    rows = [
        verdict("by the difference of short trainings", by_difference, WANTED, unit="%"),
        verdict("inside the hooks of the whole", in_hooks, WANTED, unit="%"),
    ]
    print(table("gradient and Grad-CAM, 8 samples: share of the first run's training", rows))
    return {"whole": whole, "added": added, "in_hooks": booked.seconds, "rows": rows}


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


if __name__ == "__main__":
    main()
