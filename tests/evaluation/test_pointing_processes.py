"""Runs that are killed, and runs on two devices: the same table as in one go."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pointing_fixtures import Blobs

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(*command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), **environment}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def rows(folder: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "results.sqlite")) as connection:
        return connection.execute("SELECT * FROM games ORDER BY run, picture, class").fetchall()


def test_ten_times_killed_is_the_same_table_and_nothing_is_explained_again(tmp_path: Path) -> None:
    from killed_runs import KILLS, PICTURES, play

    program = str(Path(__file__).with_name("killed_runs.py"))
    log = tmp_path / "explained"
    done = run(program, str(tmp_path), folder=tmp_path, WATCHED_LOG=str(log))
    assert done.returncode == 0, done.stderr
    whole = tmp_path / "whole"
    with pytest.MonkeyPatch.context() as patch:
        # In one go, in this process.
        patch.setenv("WATCHED_LOG", str(tmp_path / "once"))
        table = play(whole)
    assert (tmp_path / "table").read_text() == table
    assert rows(tmp_path) == rows(whole)

    data = Blobs(PICTURES)
    names = {
        f"{float(data.scene(i)[0].double().sum()):.9f}": annotation.name
        for i, annotation in enumerate(data.annotations)
    }
    attempts = [part.split() for part in log.read_text().split("killed\n")]
    killed = [set(line.split("\t")) for line in done.stdout.splitlines() if line]
    assert len(killed) == KILLS
    assert len(attempts) == KILLS + 1
    counts = [len(finished) for finished in killed]
    # They were killed on the way.
    assert len(set(counts)) > KILLS // 2
    assert 0 < counts[-1] < PICTURES
    for finished, attempt in zip(killed, attempts[1:], strict=True):
        assert not finished & {names[line] for line in attempt}
    wasted = sum(map(len, attempts)) - sum(len(a.classes) for a in data.annotations)
    # At most one batch of four pictures, of two classes each, for each kill.
    assert 0 <= wasted <= 8 * KILLS


def test_two_devices_give_the_same_table(tmp_path: Path) -> None:
    command = [
        *("-W", "error::UserWarning:lightning_saliency", "-m", "lightning_saliency", "benchmark"),
        *("--method", "center", "grad_cam", "contrastive_excitation_backprop"),
        *("--data", "digits", "--limit", "26", "--batch-size", "5", "--accelerator", "cpu"),
    ]
    one = run(*command, "--output", "one", folder=tmp_path)
    assert one.returncode == 0, one.stderr
    two = run(*command, "--output", "two", "--devices", "2", folder=tmp_path)
    assert two.returncode == 0, two.stderr
    for name in ("table.md", "table.csv"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    assert len(rows(tmp_path / "one")) == 3 * 26 * 2
    # The table is printed by one of them.
    assert two.stdout.count("Pointing game, digits_2, example") == 1
