"""Ctrl-C while the command works: nothing is lost, and the same command goes on."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lightning_saliency.cli import main

ROOT = Path(__file__).parents[2]
PICTURES = 300
COMMAND = [
    *("benchmark", "--method", "grad_cam", "--data", "digits", "--limit", str(PICTURES)),
    *("--batch-size", "2", "--accelerator", "cpu", "--output", "here"),
]


def rows(folder: Path, table: str) -> list[tuple[Any, ...]]:
    try:
        with closing(sqlite3.connect(folder / "here" / "results.sqlite", timeout=60)) as file:
            return file.execute(f"SELECT * FROM {table}").fetchall()
    except sqlite3.OperationalError:
        # It is not there yet.
        return []


def interrupted(folder: Path, after: int, *more: str) -> subprocess.CompletedProcess[str]:
    """Begin, and press Ctrl-C when so many pictures are finished."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_saliency", *COMMAND, *more],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A terminal sends the signal to the whole group of processes.
        start_new_session=True,
        # A shell lets what it starts in the background ignore Ctrl-C, and so would the command.
        preexec_fn=listen_to_ctrl_c,
    )
    end = time.monotonic() + 180
    while len(rows(folder, "pictures")) < after and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    said, complained = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, said, complained)


def listen_to_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def check(stopped: subprocess.CompletedProcess[str]) -> None:
    assert stopped.returncode == 130
    assert stopped.stderr.count("Stopped. What was finished is kept") == 1
    assert "the same command resumes from there" in stopped.stderr
    assert "Traceback" not in stopped.stdout + stopped.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, (Leaf|Tree)Spec.*")
def test_what_is_finished_is_kept_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check(interrupted(tmp_path, 10))
    pictures, games = rows(tmp_path, "pictures"), rows(tmp_path, "games")
    assert 10 <= len(pictures) < PICTURES
    # Whole pictures, with both of their digits.
    assert len(games) == 2 * len(pictures)

    explained: list[str] = []
    from lightning_saliency.evaluation import pointing_module

    play = pointing_module.play

    def watched(recipe: Any, module: Any, data: Any, batch: Any, mine: Any, size: int) -> Any:
        explained.extend(data.annotations[batch.places[position]].name for position in mine)
        return play(recipe, module, data, batch, mine, size)

    monkeypatch.setattr(pointing_module, "play", watched)
    monkeypatch.chdir(tmp_path)
    assert main(COMMAND) == 0
    assert f"{PICTURES} | {2 * PICTURES:5d} |" in capsys.readouterr().out
    finished = {name for _, name, _ in pictures}
    assert len(explained) == PICTURES - len(finished)
    assert not finished & set(explained)
    assert set(games) < set(rows(tmp_path, "games"))


@pytest.mark.slow
def test_on_two_devices_it_is_said_once(tmp_path: Path) -> None:
    check(interrupted(tmp_path, 4, "--devices", "2"))
    assert 4 <= len(rows(tmp_path, "pictures")) < PICTURES
