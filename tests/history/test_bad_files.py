"""Files that are damaged, foreign or newer: each is named, with what is wrong and what to do."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_saliency import compare, load_maps
from lightning_saliency.benchmark import pointing_results
from lightning_saliency.benchmark.pointing_results import (
    Game,
    PictureResult,
    PointingResults,
    RunKey,
)
from lightning_saliency.errors import InputError
from lightning_saliency.history.map_files import (
    MapFile,
    digests,
    write_maps,
    write_pictures,
)

PICTURES = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
ENTRY = MapFile(
    torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), torch.tensor([1, 1]), torch.rand(2), (5, 9),
    digests(PICTURES), {"method": "Gradient"}, 0, 3, "one",
)  # fmt: skip
Change = Callable[[Path], object]


def arrays_of(path: Path) -> dict[str, Any]:
    with np.load(path) as found:
        return dict(found)


def about(**changes: Any) -> Change:
    """Change what a file says of itself; None takes an entry away."""

    def change(path: Path) -> None:
        arrays = arrays_of(path)
        said = {**json.loads(str(arrays["about"])), **changes}
        text = json.dumps({name: value for name, value in said.items() if value is not None})
        np.savez(path, **{**arrays, "about": np.array(text)})

    return change


def array(**changes: Any) -> Change:
    """Put other arrays into a file; None takes one away."""

    def change(path: Path) -> None:
        arrays = {**arrays_of(path), **changes}
        np.savez(path, **{name: value for name, value in arrays.items() if value is not None})

    return change


def entry(name: str, data: bytes) -> Change:
    """Put any bytes into an entry of the archive."""

    def change(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            entries = {each: archive.read(each) for each in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for each, content in {**entries, name: data}.items():
                archive.writestr(each, content)

    return change


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text + data


def plain(value: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    # In the middle of the maps.
    data[data.index(b"maps.npy") + 200] ^= 255
    path.write_bytes(data)


def cut(size: int) -> Change:
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def instead(data: bytes) -> Change:
    return lambda path: path.write_bytes(data)


def in_place_of(path: Path, make: Change) -> None:
    path.unlink()
    make(path)


def loop(path: Path) -> None:
    in_place_of(path, lambda one: one.symlink_to(one))


def pipe(path: Path) -> None:
    in_place_of(path, os.mkfifo)


def folder(path: Path) -> None:
    in_place_of(path, Path.mkdir)


def trap(path: Path) -> None:
    """A pickle that would write a file if it were read."""

    class Trap:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {path.parent}/sprung",)

    np.savez(path, maps=np.array([Trap()], dtype=object))


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 1000000, 1000000), }"

# What becomes of a file of maps, and what is said of it.
MAPS: dict[str, tuple[Change, str]] = {
    "empty": (instead(b""), "no .npz file"),
    "text": (instead(b"epoch,loss\n1,2\n"), "no .npz file"),
    "a single array": (instead(plain(np.zeros(3))), "no .npz file"),
    "a bare pickle": (instead(b"\x80\x04K\x01."), "no .npz file"),
    "a checkpoint of torch": (lambda p: torch.save({"a": 1}, p), "has no array 'about'"),
    "a foreign npz": (lambda p: np.savez(p, x=np.zeros(3)), "has no array 'about'"),
    "cut off at 100 bytes": (cut(100), "no .npz file"),
    "without its last byte": (lambda p: cut(p.stat().st_size - 1)(p), "no .npz file"),
    "a byte is flipped": (flipped, "a damaged one"),
    "a pickle among the arrays": (trap, "has no array|pickled objects"),
    "pickled maps": (array(maps=np.array([{}, {}], dtype=object)), "holds pickled objects"),
    "a pickled description": (array(about=np.array({"format": 1})), "holds pickled objects"),
    "a folder": (folder, "no file"),
    "a link to itself": (loop, "no file"),
    "a pipe": (pipe, "no file"),
    "no maps": (array(maps=None), "has no array 'maps'"),
    "no description": (array(about=None), "has no array 'about'"),
    "maps of a huge shape": (entry("maps.npy", npy(HUGE)), "ends before its shape"),
    "maps that end early": (
        entry("maps.npy", npy(HUGE.replace("1000000", "4"), bytes(40))), "ends before its shape",
    ),
    "a negative shape": (entry("maps.npy", npy(HUGE.replace("1000000", "-4"))), "is no array"),
    "a header of any length": (entry("maps.npy", npy(HUGE + " " * 60_000)), "is no array"),
    "a header that is a program": (
        entry("maps.npy", npy("__import__('os').abort()")), "is no array",
    ),
    "a header of parentheses": (entry("maps.npy", npy("(" * 9_000)), "is no array"),
    "an array of another version": (entry("maps.npy", npy(HUGE, version=9)), "is no array"),
    "an entry that is no array": (entry("maps.npy", b"PNG"), "is no array"),
    "maps of whole numbers": (array(maps=np.zeros((2, 1, 4, 4), int)), "type int64"),
    "maps in double precision": (array(maps=np.zeros((2, 1, 4, 4))), "type float64"),
    "maps of two dimensions": (array(maps=np.zeros((2, 4), "f4")), "4 dimensions"),
    "maps with channels": (array(maps=np.zeros((2, 3, 4, 4), "f4")), r"not \(N, 1, H, W\)"),
    "maps of no pixels": (array(maps=np.zeros((2, 1, 0, 4), "f4")), r"not \(N, 1, H, W\)"),
    "classes of other samples": (array(target=np.zeros(3, int)), "different numbers of samples"),
    "classes as text": (array(target=np.array(["a", "b"])), "array 'target' has type"),
    "complex probabilities": (array(probability=np.zeros(2, complex)), "'probability' has type"),
    "a description that is cut off": (array(about=np.array('{"format": 1')), "no JSON"),
    "a description of bytes": (array(about=np.array(b'{"format": "\xff"}')), "'about' has type"),
    "text that is no text": (
        entry("about.npy", npy("{'descr': '<U2', 'fortran_order': False, 'shape': (), }",
                               b"\xff" * 8)), "no JSON|is damaged \\(",
    ),
    "a deep description": (array(about=np.array("[" * 100_000)), "no JSON"),
    "a number of 5,000 digits": (
        array(about=np.array('{"format": ' + "1" * 5_000 + "}")), "no JSON|format 1",
    ),
    "a description that is a list": (array(about=np.array("[1]")), "version of its format"),
    "no format": (about(format=None), "version of its format"),
    "format of words": (about(format="1"), "version of its format"),
    "format true": (about(format=True), "version of its format"),
    "format 99": (about(format=99), "format 99.*Do not remove it, but update lightning_saliency"),
    "no epoch": (about(epoch=None), "no epoch"),
    "an epoch of words": (about(epoch="0"), "no epoch"),
    "settings that are a list": (about(settings=[1]), "no settings"),
    "a run that is a number": (about(run=3), "no name of the run"),
    "digests that are numbers": (about(digests=[1, 2]), "no list of digests"),
    "one digest": (about(digests=["a"]), "different numbers of samples"),
    "samples that are words": (about(sample_ids=["a", "b"]), "no list of sample_ids"),
    "another epoch's name": (about(epoch=7), "holds the maps of epoch=00007"),
}  # fmt: skip

# The same of the pictures next to the maps.
IMAGES: dict[str, tuple[Change, str]] = {
    "empty": (instead(b""), "no .npz file"),
    "cut off": (cut(200), "no .npz file"),
    "a byte is flipped": (
        lambda p: p.write_bytes(p.read_bytes().replace(bytes(range(9)), bytes(9), 1)),
        "a damaged one",
    ),
    "foreign": (lambda p: np.savez(p, x=np.zeros(3)), "no array 'pictures'"),
    "pickled": (lambda p: np.savez(p, pictures=np.array([{}])), "pickled objects"),
    "real numbers": (lambda p: np.savez(p, pictures=np.zeros((2, 3, 4, 4))), "type float64"),
    "without channels": (lambda p: np.savez(p, pictures=np.zeros((2, 4), "u1")), "4 dimensions"),
    "of other samples": (
        lambda p: write_pictures(p.parent, PICTURES.flip(0)), "not those that the maps",
    ),
    "of more samples": (
        lambda p: write_pictures(p.parent, PICTURES.repeat(2, 1, 1, 1)), "not those that the maps",
    ),
    "format 99": (about(format=99), "update lightning_saliency"),
    "a link to itself": (loop, "no file"),
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    root = tmp_path / "run" / "saliency_maps" / "gradient"
    write_maps(root, ENTRY)
    write_pictures(root, PICTURES)
    return tmp_path / "run"


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(InputError) as refused:
        act()
    text = str(refused.value)
    assert text.startswith("Expected ")
    assert "allow_pickle" not in text
    assert "max_header_size" not in text
    return text


def test_the_tables_are_long_enough() -> None:
    assert len(MAPS) + len(IMAGES) + len(DATABASES) >= 40


def test_what_is_whole_is_read(run: Path) -> None:
    found = load_maps(run)
    assert torch.equal(found.maps[0], ENTRY.maps)
    assert found.pictures is not None
    assert torch.equal(found.pictures, PICTURES)


@pytest.mark.parametrize("case", MAPS)
def test_a_file_of_maps(run: Path, tmp_path: Path, case: str) -> None:
    change, words = MAPS[case]
    (path,) = (run / "saliency_maps" / "gradient").glob("epoch*")
    shutil.copytree(run, tmp_path / "whole")
    change(path)
    for act in (lambda: load_maps(run), lambda: compare(tmp_path / "whole", run)):
        text = refusal(act)
        assert path.name in text
        assert re.search(words, text)
        assert "Remove it if it is damaged" in text
    assert not (path.parent / "sprung").exists()


@pytest.mark.parametrize("case", IMAGES)
def test_a_file_of_pictures(run: Path, case: str) -> None:
    change, words = IMAGES[case]
    path = run / "saliency_maps" / "gradient" / "samples.npz"
    change(path)
    text = refusal(lambda: load_maps(run))
    assert "samples.npz" in text
    assert re.search(words, text)
    assert "the maps can be read without it" in text
    path.unlink()
    assert load_maps(run).pictures is None


def test_files_of_the_last_release_are_read(run: Path) -> None:
    (path,) = (run / "saliency_maps" / "gradient").glob("epoch*")
    about(run=None)(path)
    np.savez(path.with_name("samples.npz"), pictures=PICTURES.numpy())
    # A run of today went on from there.
    write_maps(path.parent, replace(ENTRY, epoch=1))
    assert load_maps(run).epochs.tolist() == [0, 1]
    assert load_maps(run).pictures is not None


def test_maps_of_two_runs_in_one_folder_are_told_apart(run: Path) -> None:
    write_maps(run / "saliency_maps" / "gradient", replace(ENTRY, epoch=1, run="other"))
    assert "of the same run" in refusal(lambda: load_maps(run))


def test_links_in_a_ring_end(run: Path, tmp_path: Path) -> None:
    (run / "saliency_maps" / "again").symlink_to(run)
    (run / "ring").symlink_to(run / "ring")
    assert len(load_maps(run)) == 1
    assert "which is none" in refusal(lambda: load_maps(run / "ring"))


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"], ids=["too long", "impossible"])
def test_names_that_no_folder_has(tmp_path: Path, name: str) -> None:
    assert "which is none" in refusal(lambda: load_maps(tmp_path / name))


def test_a_folder_whose_name_is_no_text(run: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    run.rename(odd)
    assert len(load_maps(odd)) == 1
    (path,) = odd.rglob("epoch*")
    path.write_bytes(b"")
    assert "no .npz file" in refusal(lambda: load_maps(odd))


def test_an_empty_folder_of_another_run_is_passed_over(run: Path) -> None:
    (run / "saliency_maps_1").mkdir()
    assert len(load_maps(run)) == 1


# --- results of the pointing game -------------------------------------------------------------

KEY = RunKey("voc", "vgg16", "grad_cam")
GAME = Game(2, False, True, 1.5, 2.0, None, 0.25, 0.5, 0.125, False)


def execute(*statements: str) -> Change:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return change


def anew(*statements: str) -> Change:
    return lambda path: in_place_of(path, execute(*statements))


def overwritten(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:100] + b"\xff" * (len(data) - 100))


def with_a_log(path: Path) -> None:
    """A foreign database whose tables are still in its write-ahead log."""
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE photos (name TEXT)")
    connection.commit()
    copies = [(one, one.read_bytes()) for one in path.parent.glob(f"{path.name}*")]
    connection.close()
    for one, data in copies:
        one.write_bytes(data)


def foreign_maps(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x=np.zeros(3))


DATABASES: dict[str, tuple[Change, str]] = {
    "text": (instead(b"picture,hit\n" * 50), "file is not a database"),
    "short": (instead(b"SQLite format 3\0"), "file is not a database"),
    "maps": (foreign_maps, "file is not a database"),
    "not UTF-8": (instead(b"\xff\xfe" * 500), "file is not a database"),
    "foreign": (anew("CREATE TABLE photos (name TEXT)"), "another database"),
    "foreign with a log": (with_a_log, "another database|another program"),
    "foreign with tables of our names": (anew("CREATE TABLE runs (km REAL)"), "another database"),
    "of a program that names itself": (anew("PRAGMA application_id = 77"), "another program"),
    "of a program that has versions": (anew("PRAGMA user_version = 4"), "another program"),
    "newer": (execute("PRAGMA user_version = 99"), "format 99.*update lightning_saliency"),
    "ours without a version": (execute("PRAGMA user_version = 0"), "another program"),
    "a table is missing": (execute("DROP TABLE games"), "has not the tables"),
    "a column is missing": (execute("ALTER TABLE games DROP COLUMN energy"), "has not the tables"),
    "cut off": (cut(4096), "malformed|damaged"),
    "cut off in the header": (cut(60), "file is not a database"),
    "overwritten": (overwritten, "not a database|malformed|damaged"),
    "a folder": (folder, "no file"),
    "a pipe": (pipe, "no file"),
    "a link to itself": (loop, "unable to open"),
    "settings that are no JSON": (execute("UPDATE runs SET settings = '{'"), "no JSON"),
    "settings that are deep": (
        execute(f"UPDATE runs SET settings = '{'[' * 100_000}'"), "no JSON",
    ),
    "settings that are a list": (execute("UPDATE runs SET settings = '[]'"), "no table"),
    "settings that are no text": (
        execute("UPDATE runs SET settings = CAST(x'ff7b' AS TEXT)"), "decode to UTF-8",
    ),
    "a point that is a word": (execute("UPDATE games SET \"row\" = 'top'"), "a number is none"),
    "a name that is no text": (
        execute("UPDATE games SET picture = CAST(x'ff' AS TEXT)"), "decode to UTF-8",
    ),
}  # fmt: skip

# Seen only in the rows that are read.
IN_ROWS = ("settings", "a point", "a name", "cut off")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    file = PointingResults(tmp_path / "results.sqlite")
    file.add(file.open_run(KEY, {"tolerance": "15"}), [PictureResult("a", (GAME,))])
    return file.path


def use(path: Path) -> list[Any]:
    file = PointingResults(path)
    return list(file.games(file.open_run(KEY, {"tolerance": "15"})))


def content(path: Path) -> dict[str, bytes]:
    beside = path.parent.glob(f"{path.name}*")
    return {one.name: one.read_bytes() for one in beside if one.is_file()}


@pytest.mark.parametrize("case", DATABASES)
def test_a_file_of_results(results: Path, case: str) -> None:
    change, words = DATABASES[case]
    change(results)
    before = content(results)
    text = refusal(lambda: use(results))
    assert "results.sqlite, but it cannot be used" in text
    assert "Name another file for the results" in text
    assert re.search(words, text)
    if not case.startswith(IN_ROWS):
        assert content(results) == before


def test_results_name_themselves(results: Path) -> None:
    assert use(results) == [("a", GAME)]
    with closing(sqlite3.connect(results)) as connection:
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    assert (owner, version) == (pointing_results._OURS, 1)
    assert owner.to_bytes(4, "big") == b"LSpg"


def test_results_of_the_last_release_are_read(results: Path) -> None:
    execute("PRAGMA application_id = 0", "PRAGMA user_version = 0")(results)
    assert use(results) == [("a", GAME)]


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "new.sqlite").touch()
    assert use(tmp_path / "new.sqlite") == []


def test_a_name_with_signs_of_an_address(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=rw#100%.sqlite"
    assert use(path) == []
    assert use(path) == []
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
