"""The bench itself: that its parts run with the package as it is, and what its tables say."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny_models import make_images, make_model

from lightning_saliency.rendering import select_frames

FOLDER = Path(__file__).parent / "performance"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    # Some packages set filters when they are imported.
    with warnings.catch_warnings():
        yield import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


def test_every_measurement_can_be_loaded(load: object) -> None:
    modules: dict[str, str] = load("bench").EVERY  # type: ignore[operator]
    for name in modules.values():
        assert callable(load(name).main)  # type: ignore[operator]


def test_a_whole_explanation(load: object) -> None:
    from lightning_saliency.attribution import RISE, Gradient
    from lightning_saliency.callbacks.samples.sample_set import SampleSet
    from lightning_saliency.callbacks.settings import methods_of

    whole: ModuleType = load("whole")  # type: ignore[operator]
    samples = SampleSet(make_images(2), torch.tensor([1, 3]))
    found = whole.explain_all(make_model(), methods_of([Gradient(), RISE(128)]), samples)
    assert [tuple(entry.saliency.shape) for entry in found] == [(2, 1, 16, 20)] * 2


def test_tables(load: object) -> None:
    timing: ModuleType = load("timing")  # type: ignore[operator]
    seconds = {"ours": [1.0, 4.0, 9.0], "theirs": [2.0, 2.0, 3.0]}
    assert timing.ratio(seconds, "ours", "theirs") == 2.0
    rows = [
        timing.verdict("a ratio", 1.06, 1.05),
        timing.verdict("a speed-up", 3.5, 3.5, at_least=True),
        timing.verdict("a share", 0.1, 0.15, unit="%"),
    ]
    assert [row["holds"] for row in rows] == [False, True, True]
    _, missed, met, share = timing.table("title", rows).strip().splitlines()
    assert missed.endswith("missed")
    assert ">= 3.50" in met
    assert "10.00 %" in share


def rows_of_a_soak(**growth: float) -> list[dict[str, int]]:
    noise = torch.randn(101, generator=torch.Generator().manual_seed(0))
    start = {
        "memory": 9e8, "heap": 2e8, "blocks": 2e6, "hooks": 0, "files": 6, "threads": 4,
        "tensors": 4000, "checkpoint": 3e6, "events": 100, "milliseconds": 0,
    }  # fmt: skip
    rows = []
    for number, shake in enumerate(noise.tolist()):
        row = {name: value + growth.get(name, 0) * number for name, value in start.items()}
        # Events grow in any case, and memory goes up and down, also with the filmstrips' columns.
        row["events"] += 1000 * number
        row["milliseconds"] += 1000 * number
        columns = len(select_frames(5 * number))
        row["memory"] += 1e6 * shake + 8e5 * columns
        row["heap"] += 1e4 * shake + 8e5 * columns
        row["blocks"] += 20 * columns
        row["tensors"] += 18 * columns
        rows.append({"epoch": 5 * number, **{name: int(value) for name, value in row.items()}})
    return rows


def test_a_soak_sees_what_grows(load: object, capsys: pytest.CaptureFixture[str]) -> None:
    grew: ModuleType = load("soak")  # type: ignore[operator]
    assert grew.nothing_grew(rows_of_a_soak())
    assert "grows" not in capsys.readouterr().out
    # For five epochs.
    paces = {
        "memory": 5e4, "heap": 500, "blocks": 12, "hooks": 1, "files": 0.2, "tensors": 0.1,
        "checkpoint": 1e4,
    }  # fmt: skip
    for name, pace in paces.items():
        # What is kept for a checkpoint takes memory, too.
        also = {"heap": pace} if name == "checkpoint" else {}
        assert not grew.nothing_grew(rows_of_a_soak(**{name: pace}, **also))
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "grows" in line]
        assert line.startswith(name)
    uneven = rows_of_a_soak()
    for row in uneven[60:]:
        row["events"] *= 2
    assert not grew.nothing_grew(uneven)
