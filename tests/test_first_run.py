"""The first thing that a new user runs prints what it is for, and nothing that cannot be helped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_it_says_nothing_that_the_reader_can_do_nothing_about(tmp_path: Path) -> None:
    run = subprocess.run(
        [
            sys.executable,
            str(ROOT / "examples" / "first_run.py"),
            *("--epochs", "2", "--pictures", "640", "--device", "cpu", "--folder", "runs/first"),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == ""
    # Without the progress bars.
    lines = [line for line in run.stdout.splitlines() if line.strip()]
    said = [line for line in lines if not any(mark in line for mark in ("it/s", "val_", "v_num"))]
    assert [line.split()[0] for line in said] == [
        "Drawing",
        "Validation",
        "The",
        "To",
        "tensorboard",
    ]
    assert (tmp_path / "runs" / "first" / "filmstrip.png").stat().st_size > 10_000
