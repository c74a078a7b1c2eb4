"""What the callbacks hold on to does not grow with the explanations of a run."""

from __future__ import annotations

import functools
import gc
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from contract import make_method
from lightning.pytorch.callbacks import ModelCheckpoint
from small_runs import QUIET, TinyModule, dataset, make_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_saliency import DriftAlarm, GradCAMCallback, SaliencyCallback
from lightning_saliency.callbacks import strip
from lightning_saliency.metrics import change_detection
from lightning_saliency.rendering import select_frames

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:Epoch"),
    pytest.mark.filterwarnings("ignore:DriftAlarm does not watch guided_backprop"),
]

# Explanations before the two looks; the filmstrips have nine columns at both.
BEFORE, AFTER = 17, 33
# What belongs to others, or to nobody: it is not followed.
_NOT_OURS = (type, ModuleType, FunctionType, BuiltinFunctionType, pl.Trainer, nn.Module)


class Quick(TinyModule):
    """Has learned its four images before the first look, and then moves in small steps only.

    So no prediction flips any more, whichever way a version of torch rounds.
    """

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [BEFORE - 5], 0.01)]


class Looks(pl.Callback):
    """Counts things by kind when so many epochs have been explained."""

    def __init__(self) -> None:
        self.held: dict[int, Counter[str]] = {}
        self.alive: dict[int, Counter[str]] = {}
        self.logged: dict[int, set[str]] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch in (BEFORE, AFTER):
            forget_what_may_be_forgotten()
            gc.collect()
            kinds = map(type, gc.get_objects())
            alive = Counter(f"{kind.__module__}.{kind.__name__}" for kind in kinds)
            names = [name for name in sys.modules if name.startswith("lightning_saliency")]
            ours = [one for one in trainer.callbacks if "saliency" in type(one).__module__]
            everything = [*ours, *(vars(sys.modules[name]) for name in names)]
            self.logged[trainer.current_epoch] = set(trainer.callback_metrics)
            self.alive[trainer.current_epoch] = alive
            self.held[trainer.current_epoch] = held_by(everything)


def forget_what_may_be_forgotten() -> None:
    """Empty the caches that have a limit; those without one would grow."""
    # By type(): some objects do not like to be asked by isinstance.
    caches = (one for one in gc.get_objects() if type(one) is functools._lru_cache_wrapper)
    for cache in caches:
        if cache.__module__.startswith("lightning_saliency") and cache.cache_info().maxsize:
            cache.cache_clear()


def held_by(roots: Iterable[object]) -> Counter[str]:
    """Count what can be reached by kind, and the bytes of lists, dicts and tensors."""
    found, seen, to_do = Counter[str](), set[int](), list(roots)
    while to_do:
        one = to_do.pop()
        if id(one) in seen or issubclass(type(one), _NOT_OURS):
            continue
        seen.add(id(one))
        kind = type(one).__name__
        found[kind] += 1
        if issubclass(type(one), (list, dict, set, tuple)):
            found[f"bytes of {kind}"] += sys.getsizeof(one)
        if issubclass(type(one), Tensor):
            # Not untyped_storage(), which leaves an object behind for as long as the tensor lives.
            found["bytes of Tensor"] += one.numel() * one.element_size()
        to_do.extend(gc.get_referents(one))
    return found


def grown(counts: dict[int, Counter[str]], more: int) -> dict[str, int]:
    """Return what has grown by at least so much for each explanation."""
    grown = {kind: count - counts[BEFORE][kind] for kind, count in counts[AFTER].items()}
    return {kind: by for kind, by in grown.items() if by >= more * (AFTER - BEFORE)}


def train(folder: Path, *others: pl.Callback) -> Looks:
    """Train one batch an epoch, with explanations of all kinds."""
    torch.manual_seed(0)
    names = ("GuidedBackprop", "ExtremalPerturbation")
    looks = Looks()
    trainer = make_trainer(
        folder,
        DriftAlarm(warmup=0, window=4),
        DriftAlarm("saliency_region/*/corner", limit=0.1),
        SaliencyCallback(
            [make_method(name) for name in names],
            samples=1,
            target=("label", "predicted"),
            regions={"corner": (0, 0, 8, 8)},
            noise_every=4,
            save_maps=True,
            max_overhead=1,
        ),
        GradCAMCallback(samples=[1], pinned="best", name="named"),
        ModelCheckpoint(folder / "checkpoints", monitor="val_loss"),
        *others,
        looks,
        max_epochs=AFTER + 1,
        enable_checkpointing=True,
    )
    loader: DataLoader[Any] = DataLoader(dataset(4), batch_size=4)
    trainer.fit(Quick(), loader, loader)
    return looks


def test_what_is_held_does_not_grow_with_the_explanations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(select_frames(BEFORE)) == len(select_frames(AFTER))
    # What is kept of the newest explanations is all there at both looks.
    monkeypatch.setattr(change_detection, "_MOST_STEPS", 8)
    monkeypatch.setattr(strip, "_MOST_POINTS", 8)
    # Those of alarms are at most six more, if they are not kept anyway.
    monkeypatch.setattr(strip.Strip, "mark_alarm", lambda self: None)
    looks = train(tmp_path)
    # And the one before the newest, which is shown if an alarm sounds.
    assert looks.held[AFTER]["Kept"] == 5 * 10
    assert grown(looks.held, 1) == {}
    # For each of these Lightning has objects of its own.
    assert looks.logged[AFTER] == looks.logged[BEFORE]
    assert grown(looks.alive, 1) == {}
