"""A run with FSDPStrategy as one of several processes, and its replay on as many of them.

Run as ``python sharded_run.py FOLDER RANK WORLD STORE OUT``; its checkpoints are folders.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "callbacks"), str(HERE.parents[1])]

from fsdp_processes import OnCPU  # noqa: E402
from processes import member  # noqa: E402
from small_runs import TinyModule, train_loader, val_loader  # noqa: E402
from tiny_models import FunctionalLike  # noqa: E402

from lightning_saliency import SaliencyCallback, replay  # noqa: E402
from lightning_saliency.attribution import GradCAM, Gradient  # noqa: E402
from lightning_saliency.errors import InputError  # noqa: E402

EPOCHS = 3


class Plain(TinyModule):
    """Has no BatchNorm, whose statistics each process would have for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = FunctionalLike()  # type: ignore[assignment]


class Maps(pl.Callback):
    """Keeps the maps of each explanation."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def on_explained(self, trainer: Any, pl_module: Any, source: Any, explained: Any) -> None:
        maps = {name: one.saliency.tolist() for name, one in explained.explanations.items()}
        self.found.append({"epoch": explained.epoch, "step": explained.step, "maps": maps})


def callback() -> SaliencyCallback:
    return SaliencyCallback([Gradient(), GradCAM()], samples=4, on_error="raise")


def sharded() -> OnCPU:
    return OnCPU(process_group_backend="gloo", state_dict_type="sharded")


def main(folder: Path, world: int) -> dict[str, Any]:
    torch.manual_seed(0)
    live, again = Maps(), Maps()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=sharded(),
        max_epochs=EPOCHS,
        logger=False,
        callbacks=[
            callback(),
            live,
            ModelCheckpoint(folder / "ckpt", filename="{epoch}", save_top_k=-1),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(Plain(), train_loader(), val_loader())
    settings: dict[str, Any] = {
        "strategy": sharded(),
        "devices": world,
        "accelerator": "cpu",
        "logger": False,
    }
    where, out = folder / "ckpt", folder / "replay"
    said = ""
    try:
        replay(Plain(), where, [callback(), again], val_loader(), out, **settings)
    except InputError as error:
        said = str(error)
    replay(Plain(), where, [callback(), again], val_loader(), out, weights_only=False, **settings)
    return {"live": live.found, "again": again.found, "said": said}


if __name__ == "__main__":
    folder, rank, world, store, out = sys.argv[1:]
    with member(int(rank), int(world), store):
        found = main(Path(folder), int(world))
    Path(out).write_text(json.dumps(found))
