"""The table: numbers by hand, beside what was published, in every form."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from lightning_saliency.benchmark.pointing_data import Annotation, PointingData
from lightning_saliency.benchmark.pointing_figure import pointing_figure
from lightning_saliency.benchmark.pointing_recipes import METHODS
from lightning_saliency.benchmark.pointing_report import MethodScore, PointingReport, score
from lightning_saliency.benchmark.pointing_results import (
    Game,
    PictureResult,
    PointingResults,
    RunKey,
)
from lightning_saliency.benchmark.published import PUBLISHED


class Three(PointingData):
    name = "three"
    class_names = ("a", "b", "c")
    missing: dict[str, str] = {}  # noqa: RUF012
    annotations = [Annotation(name, (9, 9), (0,)) for name in ("p", "q", "r")]  # noqa: RUF012

    def scene(self, index: int) -> Any:
        raise NotImplementedError


def game(label: int, hit: bool, energy: float | None, difficult: bool = False) -> Game:
    return Game(label, difficult, hit, 0.0, 0.0, energy, energy, energy, 0.1, energy is None)


def test_scores_by_hand(tmp_path: Path) -> None:
    results = PointingResults(tmp_path / "results.sqlite")
    run = results.open_run(RunKey("three", "m", "x"), {})
    results.add(
        run,
        [
            PictureResult("p", (game(0, True, 0.4), game(1, True, 0.2, difficult=True))),
            PictureResult("q", (game(0, False, None),)),
            PictureResult("r", (), "broken"),
        ],
    )
    found = score(results, run, "x", Three())
    # Class 0: one of two; class 1: one of one; class 2 does not occur and counts as 0.
    assert found.accuracy == pytest.approx((0.5 + 1 + 0) / 3)
    assert found.difficult == pytest.approx(1 / 3)
    assert found.energy == found.mass == found.rank == pytest.approx(0.3)
    assert (found.pictures, found.games, found.games_difficult, found.degenerate) == (2, 3, 1, 1)
    assert found.class_accuracy[:2] == (0.5, 1.0)
    assert math.isnan(found.class_accuracy[2])
    assert found.skipped == {"r": "broken"}
    first = score(results, run, "x", Three(), limit=1)
    assert (first.accuracy, first.games, first.skipped) == (pytest.approx(2 / 3), 2, {})
    none = score(results, results.open_run(RunKey("three", "m", "y"), {}), "y", Three())
    assert math.isnan(none.accuracy)


def report_of(data: str, model: str, methods: Any = METHODS) -> PointingReport:
    scores = tuple(
        MethodScore(
            method,
            *(0.5 + 0.04 * i, 0.3 + 0.04 * i, math.nan, 0.2, 0.3, 0.1),
            *(4952, 7000, 2000, i),
            class_accuracy=(0.5,) * 20,
        )
        for i, method in enumerate(methods)
    )
    return PointingReport(data, model, 4952, scores)


def test_the_table_stands_beside_what_was_published() -> None:
    report = report_of("voc_2007_test", "vgg16")
    lines = report.markdown().splitlines()
    centre = next(line for line in lines if line.startswith("| center"))
    assert [cell.strip() for cell in centre.strip("|").split("|")] == [
        *("center", "50.0", "30.0", "-", "30.0", "4952", "7000", "0", "69.6", "42.4")
    ]
    # It was not part of the published table.
    linear = next(line for line in lines if line.startswith("| linear_approx"))
    assert [cell.strip() for cell in linear.strip("|").split("|")][-2:] == ["-", "-"]
    assert len({len(line) for line in lines if line.startswith("|")}) == 1
    assert "arXiv:1910.08485" in lines[-1]
    for other in (("voc_2012_val", "vgg16"), ("voc_2007_test", "mine:make")):
        assert "published" not in report_of(*other).markdown()


def test_the_csv_has_every_digit_and_class() -> None:
    names = [f"class {i}" for i in range(20)]
    rows = list(csv.DictReader(io.StringIO(report_of("coco_val2014", "resnet50").csv(names))))
    assert [row["method"] for row in rows] == list(METHODS)
    assert rows[-1]["published_accuracy"] == "0.565"
    assert rows[0]["energy"] == ""
    assert rows[0]["class 19"] == "0.5"
    assert rows[METHODS.index("linear_approx")]["published_accuracy"] == ""


def test_published_figures_are_whole() -> None:
    for figures in PUBLISHED.values():
        assert list(figures) == [m for m in METHODS if m in figures]
        assert len(figures) == 9
        # The difficult subset is harder.
        assert all(100 > every > hard > 0 for every, hard in figures.values())


@pytest.mark.parametrize("model", ["vgg16", "mine:make"])
def test_the_figure_has_a_bar_for_each_method_and_marks_for_the_published(
    tmp_path: Path, model: str
) -> None:
    figure = pointing_figure(report_of("voc_2007_test", model))
    (axes,) = figure.axes
    assert len(axes.patches) == 2 * len(METHODS)
    assert [bar.get_width() for bar in axes.patches[:2]] == pytest.approx([50.0, 54.0])
    assert [label.get_text() for label in axes.get_yticklabels()][1] == "gradient"
    marks = [line.get_xdata() for line in axes.lines]
    if model == "vgg16":
        assert [len(mark) for mark in marks] == [9, 9]
        assert marks[0][0] == 69.6
    else:
        assert marks == []
    figure.savefig(tmp_path / "table.png")
    assert imread(tmp_path / "table.png").shape[0] > 300


def test_equal_bars_are_drawn_once() -> None:
    report = report_of("three", "mine:make")
    alike = [replace(row, difficult=row.accuracy) for row in report.scores]
    figure = pointing_figure(replace(report, scores=alike, data="digits_2_off_centre"))
    (axes,) = figure.axes
    assert len(axes.patches) == len(METHODS)
    assert axes.get_legend() is None
    assert figure.get_figheight() < pointing_figure(report).get_figheight() - 2
    assert axes.get_title("left") == "Pointing game, digits_2_off_center, mine:make"
