"""Whether the budget is kept, and used: the first run with extremal perturbation at four areas.

python tests/performance/bench.py budget_share
"""

from __future__ import annotations

import tempfile
from typing import Any

import lightning.pytorch as pl
import torch
from callback_cost import EPOCHS, PICTURES, first_run
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import ExtremalPerturbation
from lightning_saliency.benchmark import ClutteredDigits

AREAS = (0.025, 0.05, 0.1, 0.2)
SHARE = 0.05


def main() -> dict[str, Any]:
    """Print and return the share of the run's wall time that explanations took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    demo = first_run()
    train = demo.draw(ClutteredDigits("train", length=PICTURES, with_mask=False))
    val = demo.draw(ClutteredDigits("val", with_mask=False))
    callback = SaliencyCallback(
        ExtremalPerturbation(areas=AREAS), samples=8, max_overhead=SHARE, on_error="raise"
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            callbacks=[callback],
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
    budget = callback._budget
    print(
        f"\nmax_overhead={SHARE}, {EPOCHS} epochs in {budget.elapsed:.0f} s: {budget.made} "
        f"explanations of {budget.cost:.1f} s, {budget.skipped} left out; share "
        f"{budget.overhead:.3f} (wanted: 0.03 to 0.06)"
    )
    return {
        "share": budget.overhead,
        "made": budget.made,
        "skipped": budget.skipped,
        "seconds": budget.cost,
        "elapsed": budget.elapsed,
    }


if __name__ == "__main__":
    main()
