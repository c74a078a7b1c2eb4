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


def accuracies(**changes: list[float]) -> dict[str, list[float]]:
    flat = {"right": [0.6] * 18, "none": [0.6] * 18, "wrong": [0.6] * 18}
    return flat | changes


def test_a_shortcut_is_taken_when_accuracy_depends_on_it_twice(load: object) -> None:
    runs: ModuleType = load("evidence_runs")  # type: ignore[operator]
    falls = [0.6] * 13 + [0.4] * 5
    taken = runs.judge(accuracies(wrong=falls), {}, "fixed", 1.0)
    assert (taken["onset"], taken["judged"]) == (13, 2)
    # Once is chance, and before the event it was something else.
    once = [0.6] * 13 + [0.4] + [0.6] * 4
    always = [0.4] * 18
    for wrong in (once, always):
        assert runs.judge(accuracies(wrong=wrong), {}, "fixed", 1.0)["onset"] is None
    assert runs.judge(accuracies(wrong=falls), {}, "unused", 1.0)["onset"] is None


def test_alarms_of_runs_are_heard_or_false(load: object) -> None:
    runs: ModuleType = load("evidence_runs")  # type: ignore[operator]
    place = "saliency_evidence/label/place_gain"
    drift = "saliency_drift/gradient/previous/ssim"
    # The second explanation in which a number is unusual is no other alarm.
    sounded = {9: [place], 12: [place, drift], 13: [place]}
    falls = accuracies(wrong=[0.6] * 11 + [0.2] * 7)
    taken = runs.judge(falls, sounded, "fixed", 1.0)
    assert taken["heard"] == {"place": [12], "kind": [], "maps": [12]}
    assert taken["false"] == {"place": [9], "kind": [], "maps": []}
    clean = runs.judge(accuracies(), sounded, "clean", 1.0)
    assert clean["heard"] == {"place": [], "kind": [], "maps": []}
    assert clean["false"] == {"place": [9, 12], "kind": [], "maps": [12]}
    assert clean["judged"] == 9
    # Of its nine, one was at a time of learning.
    learns = [0.3] * 12 + [0.6] * 6
    result = clean | {"task": "dots", "kind": "clean"} | {"accuracy": accuracies(none=learns)}
    assert runs.quiet(result, "dots", True) == [True, False, False]
    assert runs.quiet(result, "dots", False) == [True, *[False] * 5]
    assert runs.quiet(result, "digits", False) == []


def test_marks_are_where_and_what_the_runs_say(load: object) -> None:
    runs: ModuleType = load("evidence_runs")  # type: ignore[operator]
    images, named = torch.full((4, 3, 32, 32), 0.5), torch.tensor([0, 1, 3, 3])

    def touched(kind: str) -> torch.Tensor:
        changed: torch.Tensor = (runs.mark(images, named, kind, 6, 0) != images).any(1)
        return changed

    assert not bool(touched("clean").any())
    fixed = touched("fixed")
    assert not bool(fixed[:, 6:].any() or fixed[:, :, 6:].any())
    # In cells of 6 and 7 pixels, all of it in one, or in four.
    cells = [(0, 6), (6, 12)]
    across = touched("across")
    for top, bottom in cells:
        for left, right in cells:
            assert bool(across[1:, top:bottom, left:right].flatten(1).any(1).all())
    assert touched("one_class").flatten(1).any(1).tolist() == [False, False, True, True]
    coded = touched("coded").any(1)
    assert not torch.equal(coded[0], coded[1])
    assert torch.equal(coded[2], coded[3])
    assert len({str(color) for color in runs.color_of(torch.arange(10)).tolist()}) == 10


def test_the_runs_have_something_of_everything_early(load: object) -> None:
    runs: ModuleType = load("evidence_runs")  # type: ignore[operator]
    plan = runs.planned()
    assert len(set(plan)) == len(plan)
    early, late = ([each[:4] for each in plan if each[4] == when] for when in ("early", "late"))
    assert not {seed for _, _, seed, _ in early} & {seed for _, _, seed, _ in late}
    for some in (early, late):
        assert {s for _, kind, _, s in some if kind == runs.NOTHING} == {*runs.SCHEDULES}
        assert {kind for _, kind, _, _ in some} == {*runs.KINDS, runs.NOTHING, runs.UNUSED}
        for task in runs.TASKS:
            assert sum(each[:2] == (task, "fixed") for each in some) == 3
    assert {kind for _, kind, _, _ in early[:30]} == {*runs.KINDS, runs.NOTHING, runs.UNUSED}


def test_later_events_are_judged_after_a_longer_warmup(load: object) -> None:
    runs: ModuleType = load("evidence_runs")  # type: ignore[operator]
    values = [0.5] * 20 + [0.9] * 7
    late = {"right": values, "none": [0.5] * 27, "wrong": [0.5] * 27}
    found = runs.judge(late, {19: ["a/place_gain"], 21: ["a/place_gain"]}, "fixed", 1.0, runs.LATE)
    assert (found["onset"], found["judged"]) == (20, 2)
    assert (found["heard"]["place"], found["false"]["place"]) == ([21], [19])
