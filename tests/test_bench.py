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
    from lightning_saliency.callbacks.explain import methods_of
    from lightning_saliency.callbacks.samples import SampleSet

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
