"""Long explanations in Lightning's progress bars, and nothing where there is no bar."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from small_runs import QUIET, TinyModule, dataset, fit, make_trainer, train_loader, val_loader
from torch import Tensor, nn

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import RISE, ExtremalPerturbation, Gradient
from lightning_saliency.attribution.progress import listening, report
from lightning_saliency.callbacks import progress_bar as progress

pytestmark = QUIET


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)


def callback(**settings: Any) -> SaliencyCallback:
    methods = [Gradient(), RISE(256), ExtremalPerturbation(areas=(0.1, 0.2), max_iter=3)]
    return SaliencyCallback(methods, samples=2, **settings)


def lines(output: str) -> list[str]:
    """Return the descriptions of the bars in the order in which they were drawn."""
    names = re.findall(r"(Epoch \d|Validation|Explaining \w+|Testing)[^\d]*", output)
    return list(dict.fromkeys(names))


# --- what the methods report ------------------------------------------------------------------


def heard(method: Any, count: int = 2) -> list[tuple[int, int]]:
    steps: list[tuple[int, int]] = []
    images, labels = dataset(count).tensors
    with listening(lambda done, total: steps.append((done, total))):
        method(TinyModule(), images, labels)
    return steps


def test_rise_reports_masks() -> None:
    steps = heard(RISE(200, batch_size=64), count=3)
    # Whole blocks of 128; three images under each mask.
    assert {total for _, total in steps} == {256}
    assert [done for done, _ in steps] == [21, 42, 64, 85, 106, 128, 149, 170, 192, 213, 234, 256]


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ({"num_masks": 100, "p": 0.3}, 100),
        ({"num_masks": 30, "num_cells": 2}, 32),
        ({"num_masks": 30, "num_cells": (3, 2)}, 32),
        ({"num_masks": 70, "preset": "torchray"}, 70),
        ({}, 256),
        ({"preset": "balanced"}, 1024),
    ],
)
def test_the_number_of_masks_is_the_one_that_comes(settings: dict[str, Any], total: int) -> None:
    assert heard(RISE(**settings), count=1)[-1] == (total, total)


def test_images_that_settle_early_do_not_turn_the_report_back() -> None:
    steps = heard(RISE(1024, until=0.2, batch_size=100), count=3)
    assert steps == sorted(steps)


def test_extremal_perturbation_reports_iterations() -> None:
    assert heard(ExtremalPerturbation(max_iter=4)) == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_one_listener_within_another() -> None:
    outer: list[int] = []
    inner: list[int] = []
    with listening(lambda done, _: outer.append(done)):
        report(1, 3)
        with listening(lambda done, _: inner.append(done)):
            report(2, 3)
        report(3, 3)
    assert (outer, inner) == ([1, 3], [2])


# --- the bars ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("leave", [False, True])
def test_tqdm(tmp_path: Path, capsys: pytest.CaptureFixture[str], leave: bool) -> None:
    bar = TQDMProgressBar(leave=leave)
    fit(tmp_path, callback(), bar, enable_progress_bar=True)
    output = capsys.readouterr().out
    shown = lines(output)
    assert shown.index("Validation") < shown.index("Explaining rise")
    assert "Explaining extremal_perturbation" in shown
    assert "Explaining gradient" not in shown
    # The line is wiped out in the end, and Lightning's own bar is the last one.
    assert "Epoch 1: 100%" in output.splitlines()[-1] or leave
    assert bar.train_progress_bar.n == 4


@pytest.mark.usefixtures("_impatient")
def test_rich(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = RichProgressBar(console_kwargs={"force_terminal": True, "width": 100})
    fit(tmp_path, callback(), bar, enable_progress_bar=True)
    assert bar.progress is not None
    tasks = bar.progress.tasks
    ours = [task for task in tasks if task.description.startswith("Explaining")]
    # The first explanation is made twice, to measure the methods' noise; then the second epoch's.
    assert [task.description for task in ours] == 3 * [
        "Explaining rise",
        "Explaining extremal_perturbation",
    ]
    assert all(task.finished and not task.visible for task in ours)
    # Lightning looks for its tasks by their number as a place in the list.
    assert [task.id for task in tasks] == list(range(len(tasks)))
    assert bar.train_progress_bar.description.startswith("Epoch 1")
    assert bar.val_progress_bar.description == "Validation"
    assert "Explaining rise" in capsys.readouterr().out


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("make", [TQDMProgressBar, RichProgressBar])
@pytest.mark.parametrize("run", ["validate", "test"])
def test_runs_that_only_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: type[ProgressBar], run: str
) -> None:
    settings = {"console_kwargs": {"force_terminal": True}} if make is RichProgressBar else {}
    bar = make(**settings)
    trainer = make_trainer(tmp_path, callback(), bar, enable_progress_bar=True)
    getattr(trainer, run)(TinyModule(), val_loader(), verbose=False)
    assert "Explaining rise" in capsys.readouterr().out


@pytest.mark.usefixtures("_impatient")
def test_an_epoch_without_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = dataset(2).tensors
    trainer = make_trainer(
        tmp_path,
        SaliencyCallback(RISE(128), samples=samples),
        TQDMProgressBar(),
        enable_progress_bar=True,
        limit_val_batches=0,
    )
    trainer.fit(TinyModule(), train_loader())
    assert "Explaining rise" in capsys.readouterr().out


class OwnBar(ProgressBar):
    """A bar that is none of Lightning's two."""

    def disable(self) -> None: ...

    def enable(self) -> None: ...


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    "bar", [None, TQDMProgressBar(refresh_rate=0), RichProgressBar(refresh_rate=0), OwnBar()]
)
def test_nothing_is_shown_where_lightning_shows_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bar: pl.Callback | None
) -> None:
    bars = [] if bar is None else [bar]
    fit(tmp_path, callback(), *bars, enable_progress_bar=bool(bars))
    caught = capsys.readouterr()
    assert "Explaining" not in caught.out + caught.err


def test_short_explanations_show_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", 1000.0)
    fit(tmp_path, callback(), TQDMProgressBar(), enable_progress_bar=True)
    assert "Explaining" not in capsys.readouterr().out


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("make", [TQDMProgressBar, RichProgressBar])
def test_the_line_goes_when_an_explanation_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: type[ProgressBar]
) -> None:
    def breaks(model: nn.Module, image: Tensor, target: Tensor) -> Tensor:
        if trainer.state.stage == "validate" and not trainer.sanity_checking:
            report(1, 3)
            raise ZeroDivisionError("halfway")
        return image[:, :1]

    bar = make()
    trainer = make_trainer(
        tmp_path, SaliencyCallback(breaks, samples=2), bar, enable_progress_bar=True
    )
    with pytest.warns(UserWarning, match="halfway"):
        trainer.fit(TinyModule(), train_loader(), val_loader())
    if isinstance(bar, RichProgressBar):
        assert bar.progress is not None
        assert not any(task.visible for task in bar.progress.tasks if "breaks" in task.description)
    else:
        assert "Epoch 1: 100%" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.usefixtures("_impatient")
def test_a_bar_that_fails_costs_no_explanation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**settings: Any) -> None:
        raise OSError("no terminal")

    monkeypatch.setattr(progress, "Tqdm", broken)
    saliency = callback(on_error="raise")
    fit(tmp_path, saliency, TQDMProgressBar(), enable_progress_bar=True)
    assert torch.isfinite(saliency.filmstrip("rise")).all()
