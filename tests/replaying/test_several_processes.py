"""A run on several processes, replayed on one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "callbacks"))

from quiet import SEVERAL_PROCESSES
from small_runs import QUIET, TinyModule, events, make_trainer, train_loader, val_loader
from tiny_models import FunctionalLike

from lightning_saliency import SaliencyCallback, load_maps, replay
from lightning_saliency.attribution import RISE, GradCAM, Gradient
from lightning_saliency.errors import InputError

pytestmark = [*QUIET, *SEVERAL_PROCESSES, pytest.mark.slow]


class Plain(TinyModule):
    """Has no BatchNorm, whose statistics each process would have for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = FunctionalLike()  # type: ignore[assignment]


def callback() -> SaliencyCallback:
    methods: list[Any] = [Gradient(), GradCAM(), RISE(num_masks=20)]
    return SaliencyCallback(methods, samples=6, save_maps=True, on_error="raise")


def drift(folder: Path) -> dict[str, list[float]]:
    found = events(folder)
    tags = [tag for tag in found.Tags()["scalars"] if tag.startswith("saliency_drift/")]
    return {tag: [each.value for each in found.Scalars(tag)] for tag in tags}


def test_a_run_on_two_processes_is_replayed_on_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainer = make_trainer(
        tmp_path / "live",
        callback(),
        ModelCheckpoint(tmp_path / "ckpt", filename="{epoch}", save_top_k=-1),
        max_epochs=3,
        enable_checkpointing=True,
        strategy="ddp_fork",
        devices=2,
    )
    trainer.fit(Plain(), train_loader(), val_loader())
    out = tmp_path / "replay" / "run"
    found = replay(Plain(), tmp_path / "ckpt", callback(), val_loader(), out, accelerator="cpu")
    assert [each.epoch for each in found.explained] == [0, 1, 2]
    for series in ("gradient", "grad_cam", "rise"):
        one, other = (load_maps(folder, series) for folder in (tmp_path / "live", out))
        assert torch.equal(one.steps, other.steps)
        assert one.digests == other.digests
        assert torch.equal(one.maps, other.maps), series
    assert drift(tmp_path / "live") == drift(tmp_path / "replay")


def test_processes_that_do_not_stay_are_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=1, logger=False)
    trainer.fit(Plain(), train_loader())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    several = {"strategy": "ddp_fork", "devices": 2, "accelerator": "cpu"}
    with pytest.raises(InputError, match="a strategy whose processes stay"):
        replay(Plain(), tmp_path, callback(), val_loader(), tmp_path / "out", **several)
