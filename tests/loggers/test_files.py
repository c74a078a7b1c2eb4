"""Runs whose loggers take no pictures: nothing is lost, and what is written stays bounded."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import Logger
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "callbacks"))

from small_runs import QUIET, TinyModule, events, fit, make_trainer, train_loader, val_loader

from lightning_saliency import DriftAlarm, SaliencyCallback, report
from lightning_saliency.attribution import GradCAM, Gradient
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.loggers import FilesAdapter, event_file
from lightning_saliency.loggers import files as files_file

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:Epoch .*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*pictures and tables of the saliency maps"),
]
PICTURE = torch.rand(3, 8, 8)


def callback(**settings: Any) -> SaliencyCallback:
    return SaliencyCallback([Gradient(), GradCAM()], samples=3, on_error="raise", **settings)


def loud() -> DriftAlarm:
    return DriftAlarm(warmup=1, window=4, factor=0.01)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("logger", ["csv", "none"])
def test_pictures_tables_films_and_alarms_are_files(tmp_path: Path, logger: str) -> None:
    chosen: Any = CSVLogger(tmp_path, name="csv", version="") if logger == "csv" else False
    fit(tmp_path, callback(save_maps=True), loud(), logger=chosen, max_epochs=7)
    folder = tmp_path / "csv" if logger == "csv" else tmp_path
    found = names(folder / "saliency")
    wanted = {"methods.png"}
    for series in ("gradient", "grad_cam"):
        wanted |= {f"samples/{series}/{i}.png" for i in range(3)}
        wanted |= {f"{kind}/{series}.png" for kind in ("filmstrip", "pinned")}
        wanted |= {f"timelapse/{series}.gif", f"drift_samples/{series}.md"}
    assert wanted <= found
    alarms = {name for name in found if name.startswith("alarm/")}
    assert {name.rpartition(".")[2] for name in alarms} == {"png", "md"}
    assert found - wanted - alarms == (set() if logger == "csv" else {"numbers.csv"})
    with Image.open(folder / "saliency" / "filmstrip" / "gradient.png") as picture:
        assert picture.size[0] == 700
    # A report finds the alarms there.
    page = report(folder, tmp_path / "page.html")
    text = page.with_suffix(".json").read_text()
    assert '"headline": "gradient looks elsewhere"' in text or "grad_cam looks elsewhere" in text


def test_they_are_the_pictures_of_tensorboard(tmp_path: Path) -> None:
    import io

    fit(tmp_path / "tb", callback())
    fit(tmp_path / "csv", callback(), logger=CSVLogger(tmp_path / "csv", name="run", version=""))
    logged = events(tmp_path / "tb")
    tags = logged.Tags()["images"]
    assert tags
    for tag in tags:
        last = Image.open(io.BytesIO(logged.Images(tag)[-1].encoded_image_string))
        suffix = "gif" if "timelapse" in tag else "png"
        with Image.open(tmp_path / "csv" / "run" / f"{tag}.{suffix}") as ours:
            assert ours.convert("RGB").tobytes() == last.convert("RGB").tobytes(), tag


def test_numbers_of_a_run_without_logger_are_those_of_tensorboard(tmp_path: Path) -> None:
    fit(tmp_path / "none", callback(log="full"), logger=False)
    fit(tmp_path / "tb", callback(log="full"))
    logged = events(tmp_path / "tb")
    with (tmp_path / "none" / "saliency" / "numbers.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {(row["tag"], int(row["step"])): float(row["value"]) for row in rows}
    wanted = {
        (tag, event.step): event.value
        for tag in logged.Tags()["scalars"]
        for event in logged.Scalars(tag)
        if tag.startswith("saliency_") and tag != "saliency_overhead"
    }
    assert wanted
    ours = {key: value for key, value in found.items() if key[0] != "saliency_overhead"}
    assert ours == pytest.approx(wanted, nan_ok=True)


def test_their_number_does_not_grow(tmp_path: Path) -> None:
    counts = []
    for epochs in (3, 6):
        folder = tmp_path / str(epochs)
        fit(folder, callback(), logger=False, max_epochs=epochs)
        counts.append(names(folder))
    assert counts[0] == counts[1]
    adapter = FilesAdapter(tmp_path)
    for step in range(100):
        adapter.image("a/saliency/alarm/grad_cam", PICTURE, step)
        adapter.text("a/saliency_alarm/grad_cam/previous", "### Epoch 3: it looks", step)
    left = sorted(path.name for path in (tmp_path / "a" / "saliency/alarm/grad_cam").iterdir())
    assert len(left) == 60
    assert left[0] == "step=000000070-previous.md"
    assert left[-1] == "step=000000099.png"


def test_a_new_run_in_the_folder_does_not_have_the_alarms_of_the_last(tmp_path: Path) -> None:
    fit(tmp_path, callback(), loud(), logger=False, max_epochs=7)
    before = {name for name in names(tmp_path) if "/alarm/" in name}
    assert before
    fit(tmp_path, callback(), logger=False, max_epochs=2)
    assert not {name for name in names(tmp_path) if "/alarm/" in name}
    with (tmp_path / "saliency" / "numbers.csv").open() as file:
        assert {int(row["step"]) for row in csv.DictReader(file)} == {3, 7}


def test_a_resumed_run_keeps_what_came_before(tmp_path: Path) -> None:
    adapter = FilesAdapter(tmp_path, takes_numbers=True)
    for step in (3, 7, 11):
        adapter.text("saliency_alarm/grad_cam/previous", "x", step)
        adapter.scalars({"saliency_a": 1.0, 'odd,"': 2.0}, step)
    adapter.forget_after(8)
    folder = tmp_path / "saliency" / "alarm" / "grad_cam"
    assert sorted(path.name for path in folder.iterdir()) == [
        "step=000000003-previous.md",
        "step=000000007-previous.md",
    ]
    lines = (tmp_path / "saliency" / "numbers.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["step", "3", "3", "7", "7"]


def test_with_tensorboard_there_are_no_files(tmp_path: Path) -> None:
    fit(tmp_path, callback(), loud(), max_epochs=7)
    assert not (tmp_path / "run" / "saliency").exists()
    assert not (tmp_path / "saliency").exists()


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_outside_of_a_fit_nothing_is_written(tmp_path: Path, verb: str) -> None:
    trainer = make_trainer(tmp_path, callback(), logger=False)
    getattr(trainer, verb)(TinyModule(), val_loader(), verbose=False)
    assert names(tmp_path) == set()


def test_it_is_said_where_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = CSVLogger(tmp_path, name="csv", version="")
    where = str(tmp_path / "csv" / "saliency")
    with pytest.warns(SaliencyWarning, match="none takes images") as said:
        fit(tmp_path, callback(), logger=logger)
    assert any(where in str(each.message) for each in said)
    told = [each.message for each in caplog.records if "takes no texts" in each.message]
    assert told
    assert all(where in each for each in told)


class Usage:
    free = 2**20


def test_a_full_disk_is_reported_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for name in ("free", "full"):
        torch.manual_seed(0)
        ours = SaliencyCallback([Gradient(), GradCAM()], samples=3)
        trainer = make_trainer(tmp_path / name, ours, loud(), max_epochs=7, logger=False)
        with monkeypatch.context() as patch:
            if name == "full":
                patch.setattr(event_file.shutil, "disk_usage", lambda _: Usage)
            with pytest.warns(SaliencyWarning) as said:
                trainer.fit(TinyModule(), train_loader(), val_loader())
        told = " ".join(str(each.message) for each in said)
        assert ("No space left for pictures" in told) is (name == "full")
        assert ("numbers of the saliency callbacks could not be written" in told) is (
            name == "full"
        )
        runs.append(list(trainer.lightning_module.state_dict().values()))
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))
    assert names(tmp_path / "full") == set()


def test_a_write_that_fails_halfway_leaves_the_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = FilesAdapter(tmp_path)
    adapter.image("saliency/methods", PICTURE, 0)
    before = (tmp_path / "saliency" / "methods.png").read_bytes()

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files_file, "write_whole", broken)
    with pytest.raises(OSError, match="No space left"):
        adapter.image("saliency/methods", 1 - PICTURE, 1)
    assert (tmp_path / "saliency" / "methods.png").read_bytes() == before


def test_a_report_finds_the_alarms_of_a_callback_with_a_name(tmp_path: Path) -> None:
    named = callback(save_maps=True, name="mine")
    fit(tmp_path, named, loud(), logger=False, max_epochs=7)
    assert any((tmp_path / "mine" / "saliency" / "alarm").rglob("*.md"))
    import json

    page = report(tmp_path, tmp_path / "page.html")
    found = json.loads(page.with_suffix(".json").read_text())
    assert found["alarms"]
    assert {alarm["series"] for alarm in found["alarms"]} <= {"mine/gradient", "mine/grad_cam"}
    assert found["lead"] == found["alarms"][-1]["series"]


class KnowsNoPlace(Logger):
    """A logger of a user, made for numbers."""

    name = "mine"

    @property
    def version(self) -> int:
        raise RuntimeError("this logger has no versions")

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        pass


def test_a_logger_that_does_not_know_its_place_ends_nothing(tmp_path: Path) -> None:
    with pytest.warns(SaliencyWarning, match=r"folder is not known.*has no versions"):
        trainer = fit(tmp_path, callback(report=True), logger=KnowsNoPlace())
    assert trainer.state.finished
    assert names(tmp_path) == set()
