"""How long 16 samples of extremal perturbation take on one process and on two, a thread each.

python tests/performance/two_processes.py

Timed are the explanation, until every process has all the maps, and the whole hook in which the
callback explains, measures, draws and logs, much of which is done by the first process alone. On a
machine that has other things to do the wall time says little; then look at the CPU time of the
slower process.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch as pl  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from digit_networks import small_cnn  # noqa: E402
from lightning.pytorch.loggers import TensorBoardLogger  # noqa: E402
from processes import member, run_together  # noqa: E402
from timing import spread, table, verdict  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from lightning_saliency import SaliencyCallback  # noqa: E402
from lightning_saliency.attribution import ExtremalPerturbation  # noqa: E402
from lightning_saliency.callbacks.run_context import RunContext  # noqa: E402

SAMPLES = 16
SIDE = 64
LIMIT = 0.65
TIMED = ("explanation, wall", "explanation, CPU", "hook, wall", "hook, CPU")


class Classifier(pl.LightningModule):
    """A small network on noise."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_cnn()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Only there so that there is a validation run."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimiser that changes nothing, so that all rounds are alike."""
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Timed(SaliencyCallback):
    """Times its explanations, from when all processes are there.

    Attributes:
        seconds: by what was timed, one for each time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds: dict[str, list[float]] = {name: [] for name in TIMED}
        explain = self._explainer.explain

        def timed(context: RunContext, *args: Any, **kwargs: Any) -> Any:
            with self.timing("explanation", context.trainer):
                return explain(context, *args, **kwargs)

        setattr(self._explainer, "explain", timed)  # noqa: B010 (a method, for mypy)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain, and look at the clocks before and after."""
        with self.timing("hook", trainer):
            super().on_validation_epoch_end(trainer, pl_module)

    @contextmanager
    def timing(self, what: str, trainer: pl.Trainer) -> Iterator[None]:
        """Note the wall time until all processes are done, and the CPU time of this one."""
        trainer.strategy.barrier()
        wall, cpu = time.monotonic(), time.process_time()
        yield
        # What the processes wait for one another is not their work.
        self.seconds[f"{what}, CPU"].append(time.process_time() - cpu)
        trainer.strategy.barrier()
        self.seconds[f"{what}, wall"].append(time.monotonic() - wall)


def run(world: int, rounds: int, folder: str) -> dict[str, list[float]]:
    """Return the seconds of each explanation but the first."""
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(32, 3, SIDE, SIDE), torch.arange(32) % 10)
    callback = Timed(
        ExtremalPerturbation(), samples=list(range(SAMPLES)), noise_every=None, on_error="raise"
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        max_epochs=rounds + 1,
        limit_train_batches=1,
        num_sanity_val_steps=0,
        logger=TensorBoardLogger(folder),
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(data, batch_size=SAMPLES)
    trainer.fit(Classifier(), loader, loader)
    return {name: seconds[1:] for name, seconds in callback.seconds.items()}


def main(quick: bool = False) -> dict[str, Any]:
    """Time one process and two in turn; print and return the ratios."""
    rounds = 2 if quick else 3
    seconds: dict[str, dict[int, list[float]]] = {name: {1: [], 2: []} for name in TIMED}
    for _ in range(1 if quick else 3):
        for world in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                found = run_together(Path(__file__), Path(folder), world, str(rounds))
            for name, times in seconds.items():
                # All have finished when the slowest has.
                times[world] += map(max, zip(*(each[name] for each in found), strict=True))
    rows = []
    print(f"\nExtremal perturbation of {SAMPLES} samples, {SIDE} pixels, seconds")
    for name, times in seconds.items():
        for world in (1, 2):
            print(f"  {name}, {world} process{'es' * (world - 1)}: {spread(times[world])}")
        ratio = statistics.median(times[2]) / statistics.median(times[1])
        rows.append(verdict(f"two processes / one: {name}", ratio, LIMIT))
    print(table(f"load average {os.getloadavg()[0]:.1f}", rows))
    return {"seconds": seconds, "rows": rows}


def one_process() -> None:
    """Be one of the processes."""
    rounds, rank, world, store, out = sys.argv[1:]
    folder = str(Path(out).parent / f"logs{rank}")
    with member(int(rank), int(world), store):
        Path(out).write_text(json.dumps(run(int(world), int(rounds), folder)))


if __name__ == "__main__":
    one_process() if len(sys.argv) > 1 else main()
