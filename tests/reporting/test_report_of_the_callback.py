"""The page that a fit leaves by itself: the same as from its files, and never its end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

sys.path.insert(0, str(Path(__file__).parents[1] / "callbacks"))

from quiet import several_processes
from small_runs import QUIET, TinyModule, fit, make_trainer, train_loader, val_loader

from lightning_saliency import DriftAlarm, SaliencyCallback, replay, report
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.callbacks.stages import report as report_file
from lightning_saliency.errors import InputError, SaliencyWarning

pytestmark = [*QUIET, pytest.mark.filterwarnings("ignore:Epoch .*:UserWarning")]

NO_IMAGES = pytest.mark.filterwarnings("ignore:.*none takes images", "ignore:The run has no logger")


def callback(**settings: Any) -> SaliencyCallback:
    chosen: dict[str, Any] = {"samples": 10, "report": True, "on_error": "raise", **settings}
    return SaliencyCallback([Gradient(), GradCAM()], **chosen)


def numbers(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.with_suffix(".json").read_text())
    return found


def test_it_says_the_same_as_a_report_of_the_files(tmp_path: Path) -> None:
    alarm = DriftAlarm(warmup=1, window=4, factor=0.01, agree=1)
    fit(tmp_path, callback(save_maps=True), alarm, max_epochs=7)
    live = tmp_path / "run" / "saliency_report.html"
    found, later = numbers(live), numbers(report(tmp_path, tmp_path / "later.html"))
    assert found["alarms"]
    for name in ("alarms", "sentence", "series", "run", "loss", "versions", "title"):
        assert found[name] == later[name], name


def test_no_fit_is_moved_by_it(tmp_path: Path) -> None:
    runs = []
    for name, settings in {"with": {}, "without": {"report": False}}.items():
        trainer = fit(tmp_path / name, callback(**settings), max_epochs=3)
        runs.append([*trainer.lightning_module.state_dict().values(), torch.get_rng_state()])
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))
    assert (tmp_path / "with" / "run" / "saliency_report.html").exists()
    assert not (tmp_path / "without" / "run" / "saliency_report.html").exists()


@NO_IMAGES
@pytest.mark.parametrize("logger", ["csv", "none"])
def test_it_needs_no_tensorboard(tmp_path: Path, logger: str) -> None:
    chosen: Any = CSVLogger(tmp_path, name="csv", version="") if logger == "csv" else False
    fit(tmp_path, callback(), logger=chosen, max_epochs=3)
    page = (tmp_path / "csv" if logger == "csv" else tmp_path) / "saliency_report.html"
    found = numbers(page)
    (loss,) = found["loss"]
    assert loss["name"] == "val_loss"
    assert len(loss["values"]) == 3
    assert "No DriftAlarm watched the run." in found["sentence"]


@pytest.mark.slow
@several_processes
def test_two_processes_write_one_page(tmp_path: Path) -> None:
    pages = []
    for name, settings in {"one": {}, "two": {"strategy": "ddp_fork", "devices": 2}}.items():
        torch.manual_seed(0)
        trainer = make_trainer(tmp_path / name, callback(samples=4), **settings)
        trainer.fit(TinyModule(), train_loader(), val_loader())
        pages.append(list((tmp_path / name).rglob("*.html")))
    assert [len(each) for each in pages] == [1, 1]
    found = [numbers(each[0]) for each in pages]
    assert found[1]["run"]["processes"] == 2
    assert [one["series"]["gradient"]["epochs"] for one in found] == [[0, 1], [0, 1]]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    fit(tmp_path, callback(), max_epochs=1)
    first = (tmp_path / "run" / "saliency_report.html").read_bytes()
    fit(tmp_path, callback(), max_epochs=2)
    assert (tmp_path / "run" / "saliency_report.html").read_bytes() == first
    assert len(numbers(tmp_path / "run" / "saliency_report_1.html")["series"]["gradient"]["epochs"])


def test_a_resumed_run_reports_all_of_it(tmp_path: Path) -> None:
    def keep() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / "ckpt", filename="{epoch}", save_top_k=-1)

    whole = tmp_path / "whole"
    fit(whole, callback(), keep(), enable_checkpointing=True, max_epochs=5)
    part = tmp_path / "part"
    one = tmp_path / "ckpt" / "epoch=2.ckpt"
    fit(part, callback(), keep(), enable_checkpointing=True, max_epochs=5, ckpt_path=one)
    found = [numbers(folder / "run" / "saliency_report.html") for folder in (whole, part)]
    assert found[1]["series"]["gradient"]["epochs"] == [0, 1, 2, 3, 4]
    for series in ("gradient", "grad_cam"):
        each = [one["series"][series] for one in found]
        assert each[0]["flips"] == each[1]["flips"]
        assert each[0]["moved"][:3] == each[1]["moved"][:3]


def test_a_replay_reports_as_the_run_does(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "ckpt", filename="{epoch}", save_top_k=-1)
    fit(tmp_path / "live", callback(), checkpoint, enable_checkpointing=True, max_epochs=3)
    out = tmp_path / "replay"
    replay(TinyModule(), tmp_path / "ckpt", callback(), val_loader(), out, accelerator="cpu")
    pages = [tmp_path / "live" / "run", out]
    found = [numbers(folder / "saliency_report.html")["series"] for folder in pages]
    assert found[0] == found[1]


def test_two_callbacks_have_two_pages(tmp_path: Path) -> None:
    fit(tmp_path, callback(), callback(name="again"), max_epochs=1)
    assert (tmp_path / "run" / "saliency_report.html").exists()
    assert (tmp_path / "run" / "again" / "saliency_report.html").exists()


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_report_that_fails_is_said_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_error: Any
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_file, "write_report", broken)
    with pytest.warns(SaliencyWarning, match="report of the run could not be written.*No space"):
        trainer = fit(tmp_path, callback(on_error=on_error), max_epochs=2)
    assert trainer.state.finished
    assert not list(tmp_path.rglob("*.html*"))


def test_a_full_disk_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 2**20

    from lightning_saliency.loggers import event_file

    ours = callback(on_error="warn")
    trainer = make_trainer(tmp_path, ours, max_epochs=1, logger=False)
    monkeypatch.setattr(event_file.shutil, "disk_usage", lambda _: Usage)
    with pytest.warns(SaliencyWarning) as said:
        trainer.fit(TinyModule(), train_loader(), val_loader())
    assert any("report of the run could not be written" in str(each.message) for each in said)
    assert trainer.state.finished
    assert not list(tmp_path.rglob("saliency_report*"))


def test_a_damaged_state_costs_the_report_alone(tmp_path: Path) -> None:
    made = callback()
    fit(tmp_path, made, max_epochs=2)
    state = made.state_dict()
    state["report"]["series"]["gradient"]["epochs"] = [0]
    again = callback()
    with pytest.warns(SaliencyWarning, match=r"the report \(ValueError: series of different"):
        again.load_state_dict(state)
    assert again.filmstrip is not None
    assert again.state_dict()["report"]["series"] == {}


def test_nothing_in_a_trial_run_and_nothing_outside_of_a_fit(tmp_path: Path) -> None:
    fit(tmp_path, callback(samples=4), fast_dev_run=True)
    trainer = make_trainer(tmp_path, callback())
    trainer.validate(TinyModule(), val_loader(), verbose=False)
    assert not list(tmp_path.rglob("*.html"))


def test_a_report_wants_a_method() -> None:
    from lightning_saliency.trust import Evidence

    with pytest.raises(InputError, match="Expected a method, to report its maps"):
        SaliencyCallback([], evidence=Evidence(), samples=4, report=True)
