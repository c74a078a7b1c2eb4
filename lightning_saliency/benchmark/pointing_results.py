"""Results of the pointing game in a file: one row for each picture and class."""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from lightning_saliency.errors import InputError

# Seconds that a process waits for another one that writes.
_PATIENCE = 120.0

# Letters of a long setting that are shown where it differs.
_SHOWN = 60

# In the header of a SQLite file: whose it is ("LSpg"), and the version of its tables.
_OURS = 0x4C537067
_FORMAT = 1

_COLUMNS = {
    "runs": {"run", "data", "model", "method", "settings"},
    "pictures": {"run", "picture", "problem"},
    "games": {
        "run", "picture", "class", "difficult", "hit", "row", "column", "energy", "mass", "rank",
        "area", "degenerate",
    },
}  # fmt: skip

_TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    run INTEGER PRIMARY KEY,
    data TEXT NOT NULL,
    model TEXT NOT NULL,
    method TEXT NOT NULL,
    settings TEXT NOT NULL,
    UNIQUE (data, model, method)
);
CREATE TABLE IF NOT EXISTS pictures (
    run INTEGER NOT NULL REFERENCES runs,
    picture TEXT NOT NULL,
    problem TEXT,
    PRIMARY KEY (run, picture)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS games (
    run INTEGER NOT NULL REFERENCES runs,
    picture TEXT NOT NULL,
    class INTEGER NOT NULL,
    difficult INTEGER NOT NULL,
    hit INTEGER NOT NULL,
    "row" REAL NOT NULL,
    "column" REAL NOT NULL,
    energy REAL,
    mass REAL,
    rank REAL,
    area REAL NOT NULL,
    degenerate INTEGER NOT NULL,
    PRIMARY KEY (run, picture, class)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class RunKey:
    """What a run is of.

    Attributes:
        data: name of the dataset.
        model: name of the model.
        method: name of the method.
    """

    data: str
    model: str
    method: str


@dataclass(frozen=True)
class Game:
    """The result for one picture and class.

    Attributes:
        label: the class.
        difficult: whether the game belongs to the difficult subset.
        hit: whether the point hit an object of the class.
        row: of the point, in pixels of the picture from the top.
        column: from the left.
        energy: share of the map's positive values on the objects; None where there is no such
            share, see :mod:`~lightning_saliency.metrics.localization`.
        mass: share of the map's magnitude on the objects, or None.
        rank: share of the K largest pixels on the K pixels of the objects, or None.
        area: share of the picture that the objects take.
        degenerate: whether the map was constant or not finite, which is a miss.
    """

    label: int
    difficult: bool
    hit: bool
    row: float
    column: float
    energy: float | None
    mass: float | None
    rank: float | None
    area: float
    degenerate: bool


@dataclass(frozen=True)
class PictureResult:
    """The result for one picture.

    Attributes:
        picture: its name.
        games: one for each class that was played.
        problem: why the picture was skipped; None if it is finished.
    """

    picture: str
    games: tuple[Game, ...] = ()
    problem: str | None = None


class PointingResults:
    """A SQLite file of results, which several processes may write to at the same time.

    A picture is written as a whole or not at all, and once: a process that dies leaves no half
    picture, and of two that bring the same one the second is ignored.

    A file of something else is refused, and not touched. Results of version 0.1.0, which do not
    name themselves in the header, are taken for what they are by their tables.

    Args:
        path: of the file; it is made if it is not there, with its folder.

    Raises:
        InputError: the file is something else, damaged, or of a newer version, or cannot be
            written. The other methods raise it, too.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._owner = -1
        with self._transaction() as connection:
            for statement in _TABLES.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_OURS}")
            connection.execute(f"PRAGMA user_version = {_FORMAT}")

    def open_run(self, key: RunKey, settings: Mapping[str, str]) -> int:
        """Start a run, or resume one.

        Args:
            key: what it is of.
            settings: everything that the results depend on.

        Returns:
            The number of the run in the file.

        Raises:
            InputError: the file has a run of the same kind with other settings.
        """
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO runs (data, model, method, settings) VALUES (?, ?, ?, ?)",
                (*astuple(key), json.dumps(dict(settings))),
            )
            run, stored = connection.execute(
                "SELECT run, settings FROM runs WHERE data = ? AND model = ? AND method = ?",
                astuple(key),
            ).fetchone()
        before = self._settings(stored)
        for name in sorted({*before, *settings}):
            if before.get(name) != settings.get(name):
                was, now = _difference(before.get(name), settings.get(name))
                raise InputError(
                    f"Expected results of the same settings in {self.path}, but its run of "
                    f"{key.method} on {key.data} with {key.model} has {name} = {was}, and now it "
                    f"is {now}. Name another file for the results, or delete this one."
                )
        return int(run)

    def add(self, run: int, results: Iterable[PictureResult]) -> None:
        """Write pictures, all or none of them; finished ones that are there already stay.

        Args:
            run: from :meth:`open_run`.
            results: of the pictures.
        """
        with self._transaction() as connection:
            for result in results:
                # A picture that could not be read may be there now; a finished one stays.
                new = connection.execute(
                    "INSERT INTO pictures VALUES (?, ?, ?) ON CONFLICT (run, picture) DO UPDATE "
                    "SET problem = excluded.problem WHERE problem IS NOT NULL",
                    (run, result.picture, result.problem),
                ).rowcount
                if new and result.problem is None:
                    connection.executemany(
                        f"INSERT INTO games VALUES (?, ?{', ?' * 10})",
                        [(run, result.picture, *astuple(game)) for game in result.games],
                    )

    def finished(self, run: int) -> set[str]:
        """Return the names of the pictures that need not be explained any more.

        Args:
            run: from :meth:`open_run`.
        """
        rows = self._read("SELECT picture FROM pictures WHERE run = ? AND problem IS NULL", run)
        return {picture for (picture,) in rows}

    def is_finished(self, run: int, picture: str) -> bool:
        """Return whether one picture is finished, by any process.

        Args:
            run: from :meth:`open_run`.
            picture: its name.
        """
        query = "SELECT 1 FROM pictures WHERE run = ? AND picture = ? AND problem IS NULL"
        return bool(self._read(query, run, picture))

    def problems(self, run: int) -> dict[str, str]:
        """Return why pictures were skipped, by name.

        Args:
            run: from :meth:`open_run`.
        """
        query = "SELECT picture, problem FROM pictures WHERE run = ? AND problem IS NOT NULL"
        return dict(self._read(query, run))

    def games(self, run: int, picture: str | None = None) -> Iterator[tuple[str, Game]]:
        """Yield picture and game of what is finished, in the order of the names.

        Args:
            run: from :meth:`open_run`.
            picture: only this one.
        """
        for name, *values in self._read(
            'SELECT picture, class, difficult, hit, "row", "column", energy, mass, rank, area, '
            "degenerate FROM games WHERE run = ? AND picture = coalesce(?, picture) "
            "ORDER BY picture, class",
            run,
            picture,
        ):
            label, difficult, hit, row, column, energy, mass, rank, area, degenerate = values
            numbers = (row, column, energy, mass, rank, area)
            if not all(isinstance(one, (int, float, NoneType)) for one in (label, *numbers)):
                raise self._unusable(f"it is damaged: of the picture {name!r} a number is none")
            yield name, Game(label, bool(difficult), bool(hit), *numbers, bool(degenerate))

    def _settings(self, stored: object) -> dict[str, str]:
        try:
            found = json.loads(str(stored))
        except (ValueError, RecursionError) as error:
            raise self._unusable("it is damaged: the settings of a run are no JSON") from error
        if not isinstance(found, dict):
            raise self._unusable("it is damaged: the settings of a run are no table")
        return found

    def _unusable(self, why: object) -> InputError:
        return InputError(
            f"Expected a file for results in {self.path}, but it cannot be used ({why}). It must "
            "be a SQLite file of this package, or not be there yet, in a folder that can be "
            "written to. Name another file for the results."
        )

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._connect().execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Write everything or nothing; other processes wait."""
        try:
            connection = self._connect()
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            yield connection
            connection.commit()
        except BaseException as error:
            with suppress(sqlite3.Error):
                connection.rollback()
            # The same game twice is the caller's mistake; the rest is the file's.
            is_ours = isinstance(error, sqlite3.Error)
            if is_ours and not isinstance(error, sqlite3.IntegrityError):
                raise self._unusable(error) from error
            raise

    def _connect(self) -> sqlite3.Connection:
        # A connection must not be taken along into a forked process.
        if self._connection is None or self._owner != os.getpid():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"Expected a folder for {self.path}, but it cannot be made ({error})."
                ) from error
            problem = _problem_of(self.path)
            if problem:
                raise self._unusable(problem)
            # Transactions are begun by hand.
            self._connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
            self._owner = os.getpid()
        return self._connection

    def __getstate__(self) -> dict[str, object]:
        """Leave the connection behind: the copy makes one of its own."""
        return {**self.__dict__, "_connection": None}


def _problem_of(path: Path) -> str:
    """Return why a file holds no results; "" if it does, or is empty, or not there.

    Looks without a lock and without a journal, so that nothing is changed.
    """
    if not path.exists():
        return ""
    if not path.is_file():
        return "it is no file"
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        return str(error)
    if not header:
        return ""
    problem = _problem_of_header(header)
    if problem:
        return problem
    try:
        columns = _columns_of(path)
    except sqlite3.Error as error:
        return f"it is damaged: {error}"
    if any(not wanted <= columns[table] for table, wanted in _COLUMNS.items()):
        return "it has not the tables of this package: it is damaged, or another database"
    return ""


def _problem_of_header(header: bytes) -> str:
    if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
        return "file is not a database"
    owner, version = (int.from_bytes(header[at : at + 4], "big") for at in (68, 60))
    if owner == _OURS and version > _FORMAT:
        return (
            f"it has format {version}, and this version of lightning_saliency knows formats up to "
            f"{_FORMAT}: update lightning_saliency"
        )
    # Version 0.1.0 wrote neither.
    if (owner, version) not in ((_OURS, _FORMAT), (0, 0)):
        return "it is a database of another program"
    return ""


def _columns_of(path: Path) -> dict[str, set[str]]:
    # What is immutable is read without looking at journals, so that none is rolled back.
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(address, uri=True)) as connection:
        return {
            table: {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            for table in _COLUMNS
        }


def _difference(before: str | None, now: str | None) -> tuple[str, str]:
    """Return two settings as they are shown: of long ones, from shortly before they differ."""
    if before is None or now is None or max(len(before), len(now)) < 2 * _SHOWN:
        return repr(before), repr(now)
    pairs = enumerate(zip(before, now, strict=False))
    differs = next((i for i, (old, new) in pairs if old != new), min(len(before), len(now)))
    start = max(0, differs - _SHOWN // 2)
    return f"'...{before[start : start + _SHOWN]}...'", f"'...{now[start : start + _SHOWN]}...'"
