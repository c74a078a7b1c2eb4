"""Load the saved maps of a run."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.history.map_files import (
    SAMPLES,
    TENSORS,
    MapFile,
    SeriesFacts,
    map_files,
    read_maps,
    read_pictures,
)

FOLDER = "saliency_maps"
"""The folder of the maps within a run's folder."""


@dataclass(frozen=True)
class SavedMaps:
    """The maps of one series over a run; E explanations of N samples.

    Attributes:
        maps: (E, N, 1, H, W), float32.
        epochs: (E,), int64; several explanations may be of one epoch.
        steps: (E,), int64, the steps at which their numbers were logged.
        target: (E, N), int64, the explained classes.
        predicted: (E, N), int64, the classes that the model predicted.
        probability: (E, N), float32, of the explained classes.
        sample_ids: N indices into the validation dataset if the samples were given so, else their
            positions among the first ones.
        digests: N short texts, equal for equal pictures.
        pictures: (N, 3, H, W), uint8, the samples as they are shown; None if they were not saved.
        series: the method, and the choice of class if there were several.
        settings: of the method and of the callback, as plain values.
        facts: the right classes, the classes' names and more, as far as they were saved.
    """

    maps: Tensor
    epochs: Tensor
    steps: Tensor
    target: Tensor
    predicted: Tensor
    probability: Tensor
    sample_ids: tuple[int, ...]
    digests: tuple[str, ...]
    pictures: Tensor | None
    series: str
    settings: Mapping[str, Any]
    facts: SeriesFacts = field(default_factory=SeriesFacts)

    def __len__(self) -> int:
        """Return the number of explanations."""
        return len(self.epochs)


def load_maps(run: str | PathLike[str], series: str | None = None) -> SavedMaps:
    """Load the maps that a callback with ``save_maps=True`` has written.

    Args:
        run: the folder of the run, that of its maps (``.../saliency_maps``), or a folder that
            contains the maps of a single run.
        series: the ``<method>`` of the tags, for instance ``"grad_cam"`` or
            ``"grad_cam/predicted"``; None if there is only one.

    Returns:
        All explanations, oldest first; ``.maps`` is (epochs, samples, 1, H, W).

    Raises:
        InputError: there are no maps, more than one run or series to choose from, a file is
            damaged or of a newer version, or the files do not belong together.

    Example:
        >>> maps = load_maps("lightning_logs/version_3", "grad_cam").maps  # doctest: +SKIP
        >>> maps.shape  # doctest: +SKIP
        torch.Size([20, 8, 1, 224, 224])
    """
    folders = series_folders(run)
    if series is None and len(folders) == 1:
        series = next(iter(folders))
    if series not in folders:
        have = ", ".join(f"'{name}'" for name in folders)
        raise InputError(f"Expected series to be one of those in {run} ({have}), got {series!r}.")
    folder = folders[series]
    entries = [read_maps(path) for path in map_files(folder).values()]
    _check_alike(entries, folder)
    first = entries[0]
    pictures, facts = series_pictures(folder, first.digests)
    return SavedMaps(
        **{name: torch.stack([getattr(entry, name) for entry in entries]) for name in TENSORS},
        epochs=torch.tensor([entry.epoch for entry in entries]),
        steps=torch.tensor([entry.step for entry in entries]),
        sample_ids=first.sample_ids,
        digests=first.digests,
        pictures=pictures,
        series=series,
        settings=first.settings,
        facts=facts,
    )


def one_by_one(folder: Path) -> Iterator[MapFile]:
    """Yield the explanations of a series, oldest first; one at a time is in memory.

    Args:
        folder: of the series, see :func:`series_folders`.

    Raises:
        InputError: a file is damaged or of a newer version, or does not belong to the others.
    """
    first: MapFile | None = None
    for path in map_files(folder).values():
        entry = read_maps(path)
        first = first or entry
        _check_alike([first, entry], folder)
        yield entry


def series_folders(run: str | PathLike[str]) -> dict[str, Path]:
    """Return the folders of a run's series, by the name of the series.

    Args:
        run: see :func:`load_maps`.

    Raises:
        InputError: there are no maps, or those of several runs.
    """
    root = maps_folder(Path(run))
    found = sorted({path.parent for path in root.rglob("*.npz") if path.name != SAMPLES})
    series = {folder.relative_to(root).as_posix(): folder for folder in found if map_files(folder)}
    if not series:
        raise InputError(
            f"Expected saliency maps in {root}, found none. They are written with save_maps=True, "
            "after the first explanation."
        )
    return series


def maps_folder(run: Path) -> Path:
    """Return the folder of a run's maps.

    Args:
        run: see :func:`load_maps`.

    Raises:
        InputError: there is none, or those of several runs.
    """
    if not _is_folder(run):
        raise InputError(f"Expected the folder of a run, got {run}, which is none.")
    if run.name.startswith(FOLDER):
        return run
    every = sorted(path for path in run.rglob(f"{FOLDER}*") if path.is_dir())
    # Of a run that ended early there is an empty one.
    found = [path for path in every if any(path.rglob("*.npz"))] or every[:1]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(
            f"Expected a folder '{FOLDER}' in {run}, found none. A callback writes it with "
            "save_maps=True."
        )
    raise InputError(
        f"Expected the maps of one run in {run}, found {len(found)}: "
        + ", ".join(map(str, found[:4]))
        + (", ..." if len(found) > 4 else "")
        + ". Give one of these folders."
    )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    # A name that is too long, or a folder that must not be looked into.
    except OSError:
        return False


def _check_alike(entries: Sequence[MapFile], folder: Path) -> None:
    kinds = {
        "size": len({tuple(entry.maps.shape) for entry in entries}),
        "samples": len({entry.digests for entry in entries}),
        # Files of version 0.1.0 do not name it, and a run may have gone on from there.
        "run": len({entry.run for entry in entries if entry.run}),
    }
    for what, count in kinds.items():
        if count > 1:
            raise InputError(
                f"Expected explanations of the same {what} in {folder}, got {count} kinds: they "
                "are of different runs. Move those of the other run elsewhere."
            )


def series_pictures(folder: Path, expected: tuple[str, ...]) -> tuple[Tensor | None, SeriesFacts]:
    """Return the explained images of a series, and what is known of them.

    Args:
        folder: of the series.
        expected: digests of the images that belong to the maps.

    Returns:
        (N, 3, H, W), uint8, None if they were not saved; and what else was.

    Raises:
        InputError: the file is damaged, or of other images.
    """
    path = folder / SAMPLES
    # Also of a link that leads nowhere it is said.
    return read_pictures(path, expected) if os.path.lexists(path) else (None, SeriesFacts())
