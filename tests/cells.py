"""Training runs in every strategy, precision and kind of compilation, with and without a callback.

Run as ``python cells.py GROUP RANK WORLD STORE OUT``: one process of a group of runs. Each writes
for each cell what differs from the run without a callback, ``""`` if nothing does.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from contract import CHEAP, METHODS  # noqa: E402
from processes import member  # noqa: E402
from untouched import (  # noqa: E402
    CLASSES,
    AugmentedImages,
    Classifier,
    Record,
    Recorder,
    first_difference,
)

from lightning_saliency import SaliencyCallback  # noqa: E402
from lightning_saliency.targets import (  # noqa: E402
    BoxScore,
    ClassInMask,
    LogitDifference,
    Similarity,
)

CHOSEN = [
    "Gradient",
    "GradCAM",
    "GuidedBackprop",
    "ExcitationBackprop",
    "AttnLRP",
    "RISE",
    "ExtremalPerturbation",
]
PRECISIONS = ["32-true", "bf16-mixed"]


def as_pixels(module: Any, images: Tensor) -> Tensor:
    """Return the logits as those of a segmentation of two by two pixels."""
    return module(images)[:, :, None, None].expand(-1, -1, 2, 2)


def as_queries(module: Any, images: Tensor) -> dict[str, Tensor]:
    """Return the logits as those of a detector with two queries."""
    logits = module(images)
    return {"logits": torch.stack([logits, -logits], 1)}


# Settings of the callback, by the name that the target has in tags.
TARGETS: dict[str, dict[str, Any]] = {
    "class_3_minus_1": {"target": LogitDifference(3, 1)},
    "class_2_in_mask": {"target": ClassInMask(2, torch.eye(2)), "forward": as_pixels},
    "similarity": {"target": Similarity(torch.arange(1.0, 1 + CLASSES))},
    "box_of_1": {"target": BoxScore(1), "forward": as_queries},
}


@dataclass(frozen=True)
class Cell:
    strategy: str
    precision: str
    is_compiled: bool
    method: str | None = None
    target: str | None = None

    def __str__(self) -> str:
        kind = "compiled" if self.is_compiled else "eager"
        parts = [
            self.strategy,
            self.precision,
            kind,
            str(self.method),
            *filter(None, [self.target]),
        ]
        return ",".join(parts)


def cells(strategy: str) -> list[Cell]:
    if strategy in ("ddp static", "ddp unused"):
        return [Cell(strategy, "32-true", False, method) for method in ("Gradient", "RISE")]
    every = [
        Cell(strategy, precision, is_compiled, method)
        for precision in PRECISIONS
        for is_compiled in (False, True)
        for method in CHOSEN
    ]
    # In the middle of an epoch of two processes, and half of it in half precision.
    with_target = [Cell(strategy, "bf16-mixed", False, "AttnLRP", target) for target in TARGETS]
    return every + (with_target if strategy != "single" else [])


class Sharded(Classifier):
    """Shards and compiles its parts itself, as ModelParallelStrategy wants it."""

    def __init__(self, is_compiled: bool) -> None:
        super().__init__()
        self.is_compiled = is_compiled
        self.is_configured = False

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        if self.is_configured:
            return
        self.is_configured = True
        mesh = self.device_mesh["data_parallel"]
        if self.is_compiled:
            self.features.compile(backend="eager")
        for part in (self.features, self.head, self):
            fully_shard(part, mesh=mesh)


class TwoNumbers(pl.Callback):
    """Logs a number, and from the second time on another, as a callback that compares may.

    Compiled validation steps that log are compiled once more when the number of values changes.
    """

    def __init__(self) -> None:
        self.count = 0

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.count += 1
            for number in range(min(self.count, 2)):
                # The comparison leaves out what is named so.
                pl_module.log(f"saliency_number{number}", 1.0)


class Resharding(Recorder):
    """Before it looks, the gathered weights are given back: the same values, in one form."""

    def _note(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        for part in module.modules():
            if hasattr(part, "reshard"):
                part.reshard()
        super()._note(trainer, module, batch)
        # All of the module leads to what FSDP keeps of its last pass until the next one, such as
        # the order in which it has gathered weights.
        self.record[-1] = {n: v for n, v in self.record[-1].items() if not n.startswith("module")}


def run(cell: Cell, folder: Path, *callbacks: pl.Callback, **settings: Any) -> tuple[Record, Any]:
    """Return the record of a run, and what dynamo has counted."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    strategies: dict[str, Any] = {
        "single": "auto",
        "ddp": DDPStrategy(),
        "ddp static": DDPStrategy(static_graph=True),
        "ddp unused": DDPStrategy(find_unused_parameters=True),
        "fsdp2": ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
    }
    module: Any = Sharded(cell.is_compiled) if cell.strategy == "fsdp2" else Classifier()
    recorder = Resharding() if cell.strategy == "fsdp2" else Recorder()
    if cell.is_compiled and cell.strategy != "fsdp2":
        module = torch.compile(
            module, backend="aot_eager" if cell.strategy == "single" else "eager"
        )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1 if cell.strategy == "single" else 2,
        strategy=strategies[cell.strategy],
        precision=cell.precision,  # type: ignore[arg-type]
        max_epochs=2,
        val_check_interval=0.5,
        accumulate_grad_batches=1 if cell.strategy in ("fsdp2", "ddp static") else 3,
        logger=CSVLogger(folder),
        callbacks=[*callbacks, recorder],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(
        module,
        DataLoader(AugmentedImages(32, augment=True), batch_size=4, shuffle=True),
        DataLoader(AugmentedImages(8, augment=False), batch_size=4),
    )
    seen = torch._dynamo.utils.counters
    counted = {
        "frames": seen["frames"]["total"],
        "graphs": seen["stats"]["unique_graphs"],
        "graph breaks": sum(seen["graph_break"].values()),
        "recompilations": sum(seen["recompiles"].values()),
    }
    return recorder.record, counted


def compare(strategy: str, folder: Path) -> Iterator[tuple[str, str]]:
    plain: dict[Cell, tuple[Record, Any] | str] = {}
    for cell in cells(strategy):
        without = replace(cell, method=None, target=None)
        if without not in plain:
            try:
                plain[without] = run(without, folder, TwoNumbers())
            except Exception as error:
                plain[without] = f"impossible without a callback: {type(error).__name__}: {error}"
        known = plain[without]
        if isinstance(known, str):
            yield str(cell), known
            continue
        assert cell.method is not None
        method = METHODS[cell.method](**CHEAP.get(cell.method, {}))
        chosen = TARGETS[cell.target] if cell.target else {}
        callback = SaliencyCallback(method, samples=[0, 6, 3], on_error="raise", **chosen)
        record, counted = run(cell, folder, callback)
        found = first_difference(known[0], record)
        if counted != known[1]:
            found += f" dynamo counted {counted}, not {known[1]}"
        if callback._budget.made != 4:
            found += f" explained {callback._budget.made} times"
        if cell.target and not all(name.endswith(f"/{cell.target}") for name in callback.series):
            found += f" explained {list(callback.series)}"
        yield str(cell), found


def main() -> None:
    strategy, rank, world, store, out = sys.argv[1:]
    with member(int(rank), int(world), store):
        found = dict(compare(strategy, Path(store).parent / f"logs{rank}"))
        Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
