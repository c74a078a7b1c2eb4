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
    flat = {"right": [0.6] * 27, "none": [0.6] * 27, "wrong": [0.6] * 27}
    return flat | changes


JUDGED = range(15, 27)


def test_a_shortcut_is_taken_when_accuracy_depends_on_it_twice(load: object) -> None:
    runs: ModuleType = load("evidence_runs")  # type: ignore[operator]
    falls = [0.6] * 22 + [0.4] * 5
    taken = runs.judge(accuracies(wrong=falls), {}, JUDGED, "fixed", 1.0)
    assert (taken["onset"], taken["judged"]) == (22, [15, 16, 17, 18, 19])
    # Once is chance, and before the event it was something else.
    once = [0.6] * 22 + [0.4] + [0.6] * 4
    always = [0.4] * 27
    for wrong in (once, always):
        assert runs.judge(accuracies(wrong=wrong), {}, JUDGED, "fixed", 1.0)["onset"] is None
    assert runs.judge(accuracies(wrong=falls), {}, JUDGED, "unused", 1.0)["onset"] is None


def test_alarms_of_runs_are_heard_or_false(load: object) -> None:
    runs: ModuleType = load("evidence_runs")  # type: ignore[operator]
    place = "saliency_evidence/label/place_gain"
    drift = "saliency_drift/gradient/previous/ssim"
    # The second explanation in which a number is unusual is no other alarm.
    sounded = {18: [place], 21: [place, drift], 22: [place]}
    falls = accuracies(wrong=[0.6] * 20 + [0.2] * 7)
    taken = runs.judge(falls, sounded, JUDGED, "fixed", 1.0)
    assert taken["heard"] == {"place": [21], "kind": [], "maps": [21]}
    assert taken["false"] == {"place": [18], "kind": [], "maps": []}
    clean = runs.judge(accuracies(), sounded, JUDGED, "clean", 1.0)
    assert clean["heard"] == {"place": [], "kind": [], "maps": []}
    assert clean["false"] == {"place": [18, 21], "kind": [], "maps": [21]}
    assert clean["judged"] == [*JUDGED]
    assert sum(runs.quiet(clean, ("place",))) == 2
    assert runs.quiet(clean, ("kind",)) == [False] * 12


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
    assert {*runs.OLD, *runs.NEW} == runs.TASKS.keys()
    everything = {*runs.KINDS, runs.NOTHING, runs.UNUSED}
    for task in runs.TASKS:
        of_task = [each for each in plan if each[0] == task]
        assert {s for _, kind, _, s in of_task if kind == runs.NOTHING} == {*runs.SCHEDULES}
        assert {kind for _, kind, _, _ in of_task} == everything
        assert sum(each[1] == "fixed" for each in of_task) == 3
    assert {kind for _, kind, _, _ in plan[:20]} == everything


@pytest.mark.parametrize("task", ["digits", "gratings", "dots", "rings", "pairs"])
def test_every_task_has_all_its_classes_and_is_drawn_again_alike(load: object, task: str) -> None:
    runs: ModuleType = load("evidence_runs")  # type: ignore[operator]
    draw, make, classes = runs.TASKS[task]
    images, labels = draw("val", 60, 0, torch.Generator().manual_seed(0))
    assert images.shape == (60, 3, 32, 32)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert {*labels.tolist()} == {*range(classes)}
    assert make().eval()(images[:2]).shape == (2, classes)
    again, _ = draw("val", 60, 0, torch.Generator().manual_seed(0))
    assert torch.equal(images, again)
