"""The file of results: whole pictures, once, whoever writes."""

import multiprocessing
import pickle
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from lightning_saliency.benchmark.pointing_results import (
    Game,
    PictureResult,
    PointingResults,
    RunKey,
)
from lightning_saliency.errors import InputError

KEY = RunKey("voc", "vgg16", "grad_cam")
SETTINGS = {"tolerance": "15", "model": "abc"}


def game(label: int, hit: bool = True) -> Game:
    return Game(label, label > 3, hit, 1.5, 2.0, None, 0.25, 0.5, 0.125, False)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    results = PointingResults(tmp_path / "new folder" / "results.sqlite")
    run = results.open_run(KEY, SETTINGS)
    games = (game(2), game(5, hit=False))
    results.add(
        run, [PictureResult("b c", games), PictureResult("a"), PictureResult("d'", (), "x")]
    )
    assert results.finished(run) == {"a", "b c"}
    assert results.problems(run) == {"d'": "x"}
    assert list(results.games(run)) == [("b c", games[0]), ("b c", games[1])]
    assert list(results.games(run, "a")) == []
    assert results.is_finished(run, "a")
    assert not results.is_finished(run, "d'")
    again = PointingResults(results.path)
    assert again.open_run(KEY, dict(reversed(SETTINGS.items()))) == run
    other = again.open_run(RunKey("voc", "vgg16", "rise"), SETTINGS)
    assert other != run
    assert list(again.games(other)) == []
    assert list(pickle.loads(pickle.dumps(again)).games(run)) == list(results.games(run))


def test_a_finished_picture_stays_and_a_skipped_one_can_be_finished(tmp_path: Path) -> None:
    results = PointingResults(tmp_path / "results.sqlite")
    run = results.open_run(KEY, SETTINGS)
    results.add(run, [PictureResult("a", (game(1),)), PictureResult("b", (), "broken")])
    results.add(run, [PictureResult("a", (game(1, hit=False), game(2))), PictureResult("b")])
    results.add(run, [PictureResult("a", (), "broken now"), PictureResult("b", (game(7),))])
    assert list(results.games(run)) == [("a", game(1))]
    assert results.problems(run) == {}
    assert results.finished(run) == {"a", "b"}


def test_other_settings_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    results = PointingResults(tmp_path / "results.sqlite")
    run = results.open_run(KEY, SETTINGS)
    results.add(run, [PictureResult("a", (game(1),))])
    for settings, name in (
        ({**SETTINGS, "tolerance": "10"}, r"tolerance = '15', and now it is '10'"),
        ({"tolerance": "15"}, r"model = 'abc', and now it is None"),
        ({**SETTINGS, "areas": "2"}, r"areas = None, and now it is '2'"),
    ):
        with pytest.raises(InputError, match=name):
            results.open_run(KEY, settings)
    assert results.open_run(KEY, SETTINGS) == run
    assert list(results.games(run)) == [("a", game(1))]


def test_of_long_settings_the_difference_is_shown(tmp_path: Path) -> None:
    results = PointingResults(tmp_path / "results.sqlite")
    long = "GradCAM(" + "resize=False, " * 20
    results.open_run(KEY, {"recipe": f"{long}layer='layer4')"})
    with pytest.raises(InputError) as refused:
        results.open_run(KEY, {"recipe": f"{long}layer='layer3')"})
    assert "layer='layer4')" in str(refused.value)
    assert "layer='layer3')" in str(refused.value)
    assert str(refused.value).count("resize") < 10


def test_pictures_are_written_all_or_none(tmp_path: Path) -> None:
    results = PointingResults(tmp_path / "results.sqlite")
    run = results.open_run(KEY, SETTINGS)
    twice: Any = PictureResult("b", (game(1), game(1)))
    with pytest.raises(sqlite3.IntegrityError):
        results.add(run, [PictureResult("a", (game(1),)), twice])
    assert results.finished(run) == set()
    assert list(results.games(run)) == []


@pytest.mark.parametrize("content", [b"not a database, but long enough to be seen as one", None])
def test_a_file_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "results.sqlite"
    path.mkdir() if content is None else path.write_bytes(content * 40)
    with pytest.raises(InputError, match=r"results\.sqlite, but it cannot be used"):
        PointingResults(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        PointingResults(tmp_path / "file" / "results.sqlite")


def write_many(path: Path, worker: int) -> None:
    results = PointingResults(path)
    run = results.open_run(KEY, SETTINGS)
    for i in range(60):
        # Half of them are the other processes' too.
        owner = worker if i % 2 else "all"
        results.add(run, [PictureResult(f"{owner} {i}", (game(1), game(2)))])


@pytest.mark.parametrize(
    "kind",
    [
        threading.Thread,
        pytest.param(multiprocessing.get_context("spawn").Process, marks=pytest.mark.slow),
    ],
)
def test_several_writers_lose_and_double_nothing(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "results.sqlite"
    workers = [kind(target=write_many, args=(path, i)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    results = PointingResults(path)
    run = results.open_run(KEY, SETTINGS)
    expected = {f"all {i}" for i in range(0, 60, 2)}
    expected |= {f"{worker} {i}" for worker in range(3) for i in range(1, 60, 2)}
    assert results.finished(run) == expected
    assert len(list(results.games(run))) == 2 * len(expected)
