"""Runs with FSDPStrategy, as one of several processes on CPUs, and what came of them.

Run as ``python fsdp_processes.py RANK WORLD STORE OUT``. Without other processes the module is not
sharded, which gives the maps to compare with.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from contract import METHODS, make_method  # noqa: E402
from processes import member  # noqa: E402
from small_runs import TinyModule, dataset  # noqa: E402

from lightning_saliency import SaliencyCallback  # noqa: E402
from lightning_saliency.attribution import GradCAM, Gradient  # noqa: E402
from lightning_saliency.errors import ModelError  # noqa: E402
from lightning_saliency.trust import TrustChecks  # noqa: E402


class OnCPU(FSDPStrategy):
    """Lightning offers it for GPUs only; torch can do without."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        from torch.distributed.fsdp import FullyShardedDataParallel
        from torch.distributed.fsdp.wrap import ModuleWrapPolicy

        return FullyShardedDataParallel(
            model,
            auto_wrap_policy=ModuleWrapPolicy({nn.Sequential}),
            device_id=torch.device("cpu"),
            **self.kwargs,
        )


class Recorded(TinyModule):
    """Notes its losses; its weights stay the same when the learning rate is 0."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.losses: list[float] = []
        if rate == 0:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))


class WithoutForward(Recorded):
    """Keeps its network as ``self.net``, and calls it itself."""

    forward = pl.LightningModule.forward

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net(batch[0])


class Maps(pl.Callback):
    """Keeps the maps of each explanation."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def on_explained(self, trainer: Any, pl_module: Any, source: Any, explained: Any) -> None:
        self.found.append(
            {name: one.saliency.tolist() for name, one in explained.explanations.items()}
        )


def forward(module: Any, images: Tensor) -> Tensor:
    return 2 * module.net(images)


def run(world: int, kind: type[Recorded], rate: float, *callbacks: pl.Callback) -> dict[str, Any]:
    torch.manual_seed(0)
    module, maps = kind(rate), Maps()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=OnCPU(process_group_backend="gloo") if world > 1 else "auto",
        max_epochs=2,
        val_check_interval=2,
        logger=False,
        callbacks=[*callbacks, maps],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        module, DataLoader(dataset(16, 1), batch_size=2), DataLoader(dataset(12, 2), batch_size=4)
    )
    return {"losses": module.losses, "maps": maps.found}


def explained(**settings: Any) -> SaliencyCallback:
    return SaliencyCallback(**{"samples": [3, 1, 5], "on_error": "raise", **settings})


def found(world: int) -> dict[str, Any]:
    everything = [make_method(name) for name in METHODS]
    layer = [GradCAM("net.features.3"), Gradient()]
    results = {
        "still": run(world, Recorded, 0.0, explained(method=everything)),
        "another forward": run(world, Recorded, 0.0, explained(method=layer, forward=forward)),
        "no forward": run(world, WithoutForward, 0.0, explained(method=layer)),
    }
    if world > 1:
        results["alone"] = run(world, Recorded, 0.05)
        results["with"] = run(world, Recorded, 0.05, explained(method=everything))
        try:
            run(
                world, Recorded, 0.05, explained(method=layer, trust=TrustChecks(sanity_check=True))
            )
        except ModelError as error:
            results["said"] = str(error)
    return results


def main() -> None:
    rank, world, store, out = sys.argv[1:]
    # Without a logger, pictures become files here.
    os.chdir(Path(out).parent)
    with member(int(rank), int(world), store):
        Path(out).write_text(json.dumps(found(int(world))))


if __name__ == "__main__":
    main()
