"""A run that was stopped, terminated or killed goes on with the same drift, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

PROGRAM = Path(__file__).parent / "interrupted_run.py"
# Four batches an epoch: the first three epochs end at step 11.
LAST = 11


def run(folder: Path, name: str, how: str) -> int:
    command = [sys.executable, str(PROGRAM), str(folder), name, how]
    # The small runs and the tiny models are found as pytest finds them.
    found = os.pathsep.join([*sys.path, str(PROGRAM.parent), str(PROGRAM.parents[1])])
    environment = {**os.environ, "PYTHONPATH": found}
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=600, check=False)
    return ended.returncode


def numbers(folder: Path, name: str) -> dict[tuple[str, int], float]:
    found = EventAccumulator(str(folder / name), size_guidance={"scalars": 0}).Reload()
    return {
        (tag, event.step): event.value
        for tag in found.Tags()["scalars"]
        # How long things take is never the same twice.
        if tag.startswith("saliency") and tag != "saliency_overhead"
        for event in found.Scalars(tag)
        if event.step > LAST
    }


def assert_equal(first: Any, second: Any) -> None:
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, "run", "whole") == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop", "SIGTERM", "SIGKILL"])
def test_a_resumed_run_logs_the_same_numbers(how: str, whole: Path, tmp_path: Path) -> None:
    run(tmp_path, "part", how)
    # The program's last act.
    assert (tmp_path / "part.pt").exists() == (how == "stop")
    assert not [key for key in numbers(tmp_path, "part") if key[0].startswith("saliency_drift/")]
    assert run(tmp_path, "rest", "resume") == 0
    expected, found = numbers(whole, "run"), numbers(tmp_path, "rest")
    assert len([key for key in expected if key[0].startswith("saliency_similarity/")]) > 100
    assert any(key[0].startswith("saliency_similarity_level/rise/noise") for key in expected)
    # NaN is not equal to itself, and may be there: no sample is stable, for instance.
    assert {key: repr(value) for key, value in found.items()} == {
        key: repr(value) for key, value in expected.items()
    }
    assert_equal(
        torch.load(tmp_path / "rest.pt", weights_only=True),
        torch.load(whole / "run.pt", weights_only=True),
    )
