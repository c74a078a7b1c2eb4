"""The folder of a run's maps, which no other run has."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4
from weakref import WeakKeyDictionary

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_saliency.errors import InputError, SaliencyWarning
from lightning_saliency.history.load import FOLDER
from lightning_saliency.history.map_files import map_files, read_maps


class MapFolder:
    """Where the callbacks of one run write their maps.

    A new run makes a folder that was not there, so that of runs that begin at the same time each
    has its own. A resumed run knows its folder again by the name of the run in the files.

    Args:
        parent: the run's folder.
        run: the name of the run that is resumed, "" if its checkpoint names none; None for a new
            one.

    Attributes:
        parent: as given.
        run: the name of the run.
        path: of the folder; may still change until :meth:`claim`.
    """

    def __init__(self, parent: Path, run: str | None) -> None:
        self.parent = parent
        self.run = run or uuid4().hex
        self._number = 0
        found = None if run is None else _folder_of(run, parent)
        self._is_ours = found is not None
        self.path = found or parent / FOLDER
        if not self._is_ours:
            self._pass_by(is_taken=_has_maps)

    def check(self) -> None:
        """Make the folder of the run, and check that one for the maps can be made in it.

        Raises:
            OSError: it cannot.
        """
        self.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"{self.path} is a file")

    def claim(self) -> Path:
        """Return the folder, which is there and this run's from now on.

        Not called before there is something to write, so that a run that ends early leaves none.

        Raises:
            OSError: it cannot be made.
        """
        if not self._is_ours:
            self._pass_by(is_taken=lambda path: not _make(path))
            self._is_ours = True
        return self.path

    def is_of(self, parent: Path) -> bool:
        """Whether maps are already written, and in this run's folder."""
        return self._is_ours and self.parent == parent

    def _pass_by(self, is_taken: Callable[[Path], bool]) -> None:
        first = self.path
        while is_taken(self.path):
            self._number += 1
            self.path = self.parent / f"{FOLDER}_{self._number}"
        if self.path != first:
            rank_zero_warn(
                f"{first} holds the maps of another run; those of this run go to {self.path}.",
                category=SaliencyWarning,
            )


_FOLDERS: WeakKeyDictionary[pl.Trainer, MapFolder] = WeakKeyDictionary()


def map_folder(
    trainer: pl.Trainer, parent: Path, before: MapFolder | None, run: str | None
) -> MapFolder:
    """Return the folder of a run, the same for all of its callbacks.

    Args:
        trainer: of the run.
        parent: the run's folder.
        before: that the callback has written to with another trainer, if any; it goes on there.
        run: see :class:`MapFolder`.
    """
    known = _FOLDERS.get(trainer)
    if known is None or known.parent != parent:
        goes_on = before is not None and before.is_of(parent)
        known = before if before is not None and goes_on else MapFolder(parent, run)
        _FOLDERS[trainer] = known
    return known


def _folder_of(run: str, parent: Path) -> Path | None:
    roots = sorted(path for path in parent.glob(f"{FOLDER}*") if path.is_dir())
    return next((root for root in roots if run in _runs_in(root)), None)


def _runs_in(root: Path) -> set[str]:
    """Return the names of the runs of the maps in a folder; version 0.1.0 wrote none, ""."""
    found = set()
    for folder in {path.parent for path in root.rglob("*.npz")}:
        for path in map_files(folder).values():
            # A damaged file says nothing here; whoever loads the maps is told.
            with suppress(InputError):
                found.add(read_maps(path).run)
                break
    return found


def _has_maps(root: Path) -> bool:
    return any(root.rglob("*.npz"))


def _make(path: Path) -> bool:
    """Make a folder; return whether it was not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise
        return False
    return True
