"""A checkpoint whose state of the callback is damaged, or of another version, costs the history."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from small_runs import QUIET, TinyModule, fit, make_trainer, train_loader
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import DriftAlarm, SaliencyCallback
from lightning_saliency.attribution import Gradient
from lightning_saliency.errors import SaliencyWarning

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

State = dict[str, Any]
SERIES = "gradient"


def reference(state: State) -> State:
    found: State = state["monitor"]["drift"][SERIES]["references"]["last"]
    return found


def strip(state: State) -> State:
    found: State = state["monitor"]["pictures"][SERIES]
    return found


# What is done to the state, and the part that is lost by it; "" for none.
DAMAGE: dict[str, tuple[Callable[[State], object], str]] = {
    "nothing": (lambda s: None, ""),
    "an unknown part": (lambda s: s.update(new=1), ""),
    "no version": (lambda s: s.pop("version"), ""),
    "a newer version": (lambda s: s.update(version=99), "version 99"),
    "a version of another kind": (lambda s: s.update(version="two"), "version two"),
    # Lightning does not hand it on.
    "empty": (lambda s: s.clear(), ""),
    "no samples": (lambda s: s.pop("samples"), "the samples"),
    "samples that are a number": (lambda s: s.update(samples=3), "the samples"),
    "samples without images": (lambda s: s["samples"].pop("images"), "the samples"),
    "images of another kind": (lambda s: s["samples"].update(images="x"), "the samples"),
    "images of other dimensions": (
        lambda s: s["samples"].update(images=torch.zeros(3)), "the samples",
    ),
    "no fingerprint": (lambda s: s.pop("made_for"), "the samples"),
    "a fingerprint of another kind": (lambda s: s.update(made_for=[1]), "the samples"),
    "no monitor": (lambda s: s.pop("monitor"), "the drift"),
    "a monitor of another kind": (lambda s: s.update(monitor=3), "the filmstrips"),
    "no drift": (lambda s: s["monitor"].pop("drift"), "the drift"),
    "drift of another kind": (lambda s: s["monitor"].update(drift=[]), "the drift"),
    "a tracker of another kind": (lambda s: s["monitor"]["drift"].update(gradient=7), "the drift"),
    "a reference without maps": (lambda s: reference(s).pop("maps"), "the drift"),
    "maps of another shape": (lambda s: reference(s).update(maps=torch.zeros(3, 4)), "the drift"),
    "classes of another number": (
        lambda s: reference(s).update(target=torch.zeros(1)), "the drift",
    ),
    "an epoch that is none": (lambda s: reference(s).update(epoch="now"), "the drift"),
    "noise of another kind": (
        lambda s: s["monitor"]["drift"][SERIES].update(noise={"ssim": "much"}), "the drift",
    ),
    "no pictures": (lambda s: s["monitor"].pop("pictures"), "the filmstrips"),
    "a filmstrip without maps": (lambda s: strip(s).pop("kept"), "the filmstrips"),
    "a count without its maps": (lambda s: strip(s).update(kept={}), "the filmstrips"),
    "a scale of another kind": (lambda s: strip(s).update(scale={"a": 1}), "the filmstrips"),
    "no budget": (lambda s: s.pop("budget"), "the time budget"),
    "a budget of words": (lambda s: s["budget"].update(spent="long"), "the time budget"),
    "a budget of another kind": (lambda s: s.update(budget=None), "the time budget"),
    "no sanity check": (lambda s: s.pop("trust"), "the sanity check"),
    "no last epoch": (lambda s: s.pop("last_epoch"), "the last epoch"),
    "a last epoch of words": (lambda s: s.update(last_epoch="one"), "the last epoch"),
}  # fmt: skip


def callbacks() -> list[Any]:
    return [
        SaliencyCallback(Gradient(), samples=3, on_error="raise"),
        DriftAlarm(monitor="saliency_drift/*", warmup=1, window=4),
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("saved")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = fit(folder, *callbacks(), max_epochs=2)
        trainer.save_checkpoint(folder / "end.ckpt")
    return torch.load(folder / "end.ckpt", weights_only=False)


def resume(saved: Any, folder: Path) -> tuple[list[str], SaliencyCallback]:
    torch.save(saved, folder / "damaged.ckpt")
    saliency, alarm = callbacks()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SaliencyWarning)
        trainer = fit(folder, saliency, alarm, ckpt_path=folder / "damaged.ckpt", max_epochs=3)
    assert trainer.global_step == 12
    return [str(w.message) for w in caught if issubclass(w.category, SaliencyWarning)], saliency


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_cannot_be_used_is_named_and_the_run_goes_on(
    damage: str, saved: Any, tmp_path: Path
) -> None:
    change, lost = DAMAGE[damage]
    damaged = copy.deepcopy(saved)
    key = next(key for key in damaged["callbacks"] if "Saliency" in key)
    change(damaged["callbacks"][key])
    said, saliency = resume(damaged, tmp_path)
    if lost:
        (text,) = said
        assert "Parts of the checkpoint's state of SaliencyCallback cannot be used" in text
        assert lost in text
    else:
        assert said == []
    assert saliency.filmstrip().shape[0] == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(watched=3),
        lambda s: s["watched"].update(other={"amounts": 3}),
        lambda s: s.update(version=99),
        lambda s: next(iter(s["watched"].values())).pop("creep"),
    ],
    ids=["another kind", "another entry", "a newer version", "a part is missing"],
)
def test_the_same_of_an_alarm(change: Any, saved: Any, tmp_path: Path) -> None:
    damaged = copy.deepcopy(saved)
    key = next(key for key in damaged["callbacks"] if "DriftAlarm" in key)
    change(damaged["callbacks"][key])
    said, _ = resume(damaged, tmp_path)
    assert ["state of DriftAlarm cannot be used" in text for text in said] == [True]


def test_a_checkpoint_that_is_saved_after_the_run_holds_the_history(tmp_path: Path) -> None:
    trainer = fit(tmp_path / "first", *callbacks(), max_epochs=2)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    keys = torch.load(tmp_path / "end.ckpt", weights_only=False)["callbacks"].keys()
    assert not [key for key in keys if "@" in key]
    again, alarm = callbacks()
    fit(tmp_path / "second", again, alarm, ckpt_path=tmp_path / "end.ckpt", max_epochs=3)
    whole, alarm = callbacks()
    fit(tmp_path / "whole", whole, alarm, max_epochs=3)
    assert again.filmstrip().shape == whole.filmstrip().shape


def test_samples_by_index_are_not_stored(tmp_path: Path) -> None:
    """16 of 224 pixels, in the checkpoint of the first epoch."""
    images = torch.rand(16, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(images, torch.arange(16) % 5)
    sizes = {}
    for name, samples in {"index": list(range(16)), "first": 16, "none": None}.items():
        callbacks = (
            [] if samples is None else [SaliencyCallback(Gradient(resize=(56, 56)), samples)]
        )
        saving = ModelCheckpoint(tmp_path, filename=name)
        trainer = make_trainer(
            tmp_path / name, *callbacks, saving, enable_checkpointing=True, max_epochs=1
        )
        trainer.fit(TinyModule(), train_loader(), DataLoader(data, batch_size=8))
        file = io.BytesIO()
        torch.save(torch.load(tmp_path / f"{name}.ckpt", weights_only=False), file)
        sizes[name] = len(file.getvalue())
    assert sizes["index"] - sizes["none"] < 1_000_000
    # The first samples are stored: another loader may give others.
    assert sizes["first"] - sizes["none"] > 16 * 3 * 224 * 224 * 4
