"""Train for 500 epochs with all callbacks, and look for what grows: memory, hooks, files, threads.

make soak
python tests/performance/soak.py --epochs 100

What is looked at after each fifth epoch must not grow after the twentieth; the events of
TensorBoard must grow evenly. The memory is that of the process; its slope is compared with how much
it goes up and down, in blocks of epochs, because neighbouring epochs are alike.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import statistics
import sys
import tempfile
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "callbacks")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch as pl  # noqa: E402
import torch  # noqa: E402
from contract import CHEAP, METHODS, make_method  # noqa: E402
from lightning.pytorch.loggers import TensorBoardLogger  # noqa: E402
from small_runs import TinyModule, dataset  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

import lightning_saliency  # noqa: E402
from lightning_saliency import DriftAlarm, SaliencyCallback  # noqa: E402

EVERY = 5
FIRST = 20
BLOCKS = 8
# Two-sided, 95 %, for BLOCKS - 2 degrees of freedom.
STUDENT = 2.447
COUNTS = ("hooks", "files", "threads", "tensors")


class Watch(pl.Callback):
    """Writes down what there is, after every fifth epoch."""

    def __init__(self, folder: Path, output: Path) -> None:
        self.folder, self.output = folder, output
        self.rows: list[dict[str, int]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what the epochs before have left."""
        if trainer.current_epoch % EVERY == 0:
            gc.collect()
            self.rows.append(
                {
                    "epoch": trainer.current_epoch,
                    "memory": _resident(),
                    "hooks": _hooks(pl_module),
                    "files": len(os.listdir("/proc/self/fd")),
                    "threads": threading.active_count() + len(os.listdir("/proc/self/task")),
                    "tensors": sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()),
                    "events": sum(file.stat().st_size for file in self.folder.rglob("events.*")),
                }
            )
            # As it goes, so that an interrupted run has something to show.
            with self.output.open("a") as file:
                file.write(json.dumps(self.rows[-1]) + "\n")


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _hooks(module: nn.Module) -> int:
    return sum(
        len(hooks)
        for part in module.modules()
        for name, hooks in vars(part).items()
        if name.endswith("_hooks") and hooks is not None
    )


def run(epochs: int, folder: Path, output: Path) -> list[dict[str, int]]:
    """Train, and return what was seen; it is also written to ``output``."""
    torch.manual_seed(0)
    kinds = {name: getattr(lightning_saliency, f"{name}Callback") for name in METHODS}
    named = [kind(samples=1, name="named", **CHEAP.get(name, {})) for name, kind in kinds.items()]
    generic = SaliencyCallback([make_method(name) for name in METHODS], samples=[1], max_overhead=1)
    watch = Watch(folder, output)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=2,
        logger=TensorBoardLogger(folder),
        callbacks=[DriftAlarm(), generic, *named, watch],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(dataset(8), batch_size=4)
    trainer.fit(TinyModule(), loader, loader)
    return watch.rows


def slope(epochs: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return the slope of a line through the means of blocks, and half its confidence interval."""
    size = len(values) // BLOCKS
    kept = size * BLOCKS
    x, y = (
        [statistics.fmean(part[i : i + size]) for i in range(0, kept, size)]
        for part in (list(epochs)[-kept:], list(values)[-kept:])
    )
    middle_x, middle_y = statistics.fmean(x), statistics.fmean(y)
    spread = sum((each - middle_x) ** 2 for each in x)
    steep = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / spread
    rest = [b - middle_y - steep * (a - middle_x) for a, b in zip(x, y, strict=True)]
    error = (sum(each**2 for each in rest) / (BLOCKS - 2) / spread) ** 0.5
    return steep, STUDENT * error


def main(epochs: int, output: Path) -> bool:
    """Train, print what has grown, and return whether nothing has."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        rows = run(epochs, Path(folder), output)
    return nothing_grew(rows)


def nothing_grew(rows: list[dict[str, int]]) -> bool:
    """Print how each number has changed, and return whether none has grown."""
    late = [row for row in rows if row["epoch"] >= FIRST]
    when = [row["epoch"] for row in late]
    verdicts = {}
    for name in ("memory", *COUNTS):
        values = [row[name] for row in late]
        steep, unsure = slope(when, values)
        verdicts[name] = abs(steep) <= unsure or max(values) == min(values)
        print(
            f"{name:8s} {values[0]:>12,d} to {values[-1]:>12,d}, slope {steep:+.3g} +- "
            f"{unsure:.2g} an epoch{'' if verdicts[name] else '   <-- grows'}"
        )
    written = [row["events"] for row in late]
    half = len(written) // 2
    ratio = (written[-1] - written[half]) / max(1, written[half] - written[0])
    ratio *= (when[half] - when[0]) / max(1, when[-1] - when[half])
    verdicts["events"] = 0.9 <= ratio <= 1.1
    print(
        f"events   {written[0]:,d} to {written[-1]:,d} bytes; the second half's growth is "
        f"{ratio:.2f} of the first half's{'' if verdicts['events'] else '   <-- not even'}"
    )
    return all(verdicts.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--output", type=Path, default=Path("build/soak.jsonl"))
    given = parser.parse_args()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.unlink(missing_ok=True)
    sys.exit(not main(given.epochs, given.output))
