"""Saved maps in the forms that other programs read: one NumPy file, a table, pictures, a film."""

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.history.load import SavedMaps, load_maps, series_folders
from lightning_saliency.history.map_files import write_arrays
from lightning_saliency.rendering import (
    ColorScale,
    Heatmap,
    color_scale,
    film_frame,
    heatmap,
    overlay,
    timelapse,
    to_bytes,
)
from lightning_saliency.rendering.pixels import to_pillow
from lightning_saliency.whole_file import write_whole

# Side of the pictures in a film.
_SIDE = 160
_COLUMNS = ("epoch", "step", "sample", "target", "predicted", "probability")


def export_maps(
    run: str | PathLike[str],
    output: str | PathLike[str],
    series: str | None = None,
    forms: Sequence[str] = ("numpy", "csv", "png", "gif"),
) -> list[Path]:
    """Write the saved maps of a run as files that other programs read.

    For each series, ``/`` in its name as ``-``:

    - ``numpy``: ``<series>.npz``, arrays of E explanations of N samples: ``maps`` (E, N, H, W)
      float32; ``epoch``, ``step`` (E,) int64; ``sample`` (N,) int64; ``target``, ``predicted``
      (E, N) int64; ``probability`` (E, N) float32; ``pictures`` (N, H, W, 3) uint8, if they were
      saved. ``numpy.load`` reads it without pickles.
    - ``csv``: ``<series>.csv``, a row for each explanation of each sample: ``epoch``, ``step``,
      ``sample``, ``target``, ``predicted``, ``probability``.
    - ``png``: ``<series>/sample=<id>/epoch=<e>-step=<s>.png``, the map over the picture, in the
      colors of the run (of the maps alone, where no pictures were saved).
    - ``gif``: ``<series>.gif``, a frame for each explanation, the samples side by side.

    As xarray and pandas take them::

        a = numpy.load("export/gradient.npz")
        dims = {"epoch": a["epoch"], "sample": a["sample"]}
        maps = xarray.DataArray(a["maps"], dims, ("epoch", "sample", "y", "x"))

        table = pandas.read_csv("export/gradient.csv")
        table.pivot(index="step", columns="sample", values="probability").plot()

    Args:
        run: see :func:`~lightning_saliency.history.load_maps`.
        output: the folder; it is made if needed.
        series: the ``<method>`` of the tags; None for all.
        forms: which of the four.

    Returns:
        The files.

    Raises:
        InputError: before anything is written, if there are no such maps, they do not belong
            together, a form is unknown, or a file is already there.
    """
    unknown = set(forms) - _WRITERS.keys()
    if unknown or not forms:
        came = ", ".join(sorted(unknown)) or "none"
        raise InputError(f"Expected forms among {', '.join(_WRITERS)}, got {came}.")
    chosen = list(series_folders(run)) if series is None else [series]
    loaded = [load_maps(run, name) for name in chosen]
    root = Path(output)
    planned = [
        (maps, form, path)
        for maps in loaded
        for form in dict.fromkeys(forms)
        for path in [root / f"{maps.series.replace('/', '-')}{_ENDINGS[form]}"]
    ]
    for _, _, path in planned:
        if os.path.lexists(path):
            raise InputError(
                f"Expected a folder without {path.name}, but {path} exists. Remove it, or give "
                "another output folder: nothing is overwritten."
            )
    root.mkdir(parents=True, exist_ok=True)
    return [file for maps, form, path in planned for file in _WRITERS[form](maps, path)]


def _write_numpy(saved: SavedMaps, path: Path) -> Iterator[Path]:
    arrays: dict[str, Any] = {
        "maps": saved.maps.squeeze(2).numpy(),
        "epoch": saved.epochs.numpy(),
        "step": saved.steps.numpy(),
        "sample": torch.tensor(saved.sample_ids).numpy(),
        "target": saved.target.numpy(),
        "predicted": saved.predicted.numpy(),
        "probability": saved.probability.numpy(),
    }
    if saved.pictures is not None:
        arrays["pictures"] = saved.pictures.permute(0, 2, 3, 1).contiguous().numpy()
    write_arrays(path, arrays)
    yield path


def _write_table(saved: SavedMaps, path: Path) -> Iterator[Path]:
    def write(file: IO[bytes]) -> None:
        lines = csv.writer(_Encoded(file), lineterminator="\n")
        lines.writerow(_COLUMNS)
        for row in range(len(saved)):
            for place, sample in enumerate(saved.sample_ids):
                each = (saved.target, saved.predicted, saved.probability)
                found = [tensor[row, place].item() for tensor in each]
                lines.writerow([int(saved.epochs[row]), int(saved.steps[row]), sample, *found])

    yield write_whole(path, write)


class _Encoded:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(text.encode())


def _write_overlays(saved: SavedMaps, path: Path) -> Iterator[Path]:
    for row, (_, pictures) in enumerate(_painted(saved)):
        name = f"epoch={int(saved.epochs[row]):05d}-step={int(saved.steps[row]):09d}.png"
        for sample, picture in zip(saved.sample_ids, to_bytes(pictures), strict=True):
            folder = path / f"sample={sample}"
            folder.mkdir(parents=True, exist_ok=True)
            yield write_whole(folder / name, partial(to_pillow(picture).save, format="PNG"))


def _write_film(saved: SavedMaps, path: Path) -> Iterator[Path]:
    frames = [film_frame(pictures, heat, side=_SIDE) for heat, pictures in _painted(saved)]
    labels = [f"epoch {epoch}" for epoch in saved.epochs.tolist()]
    film = timelapse(frames, labels, f"{saved.series},")
    yield write_whole(path, film)


def _painted(saved: SavedMaps) -> Iterator[tuple[Heatmap, Tensor]]:
    """Yield each explanation colored, and laid over the pictures; one scale for all."""
    scales = (color_scale(maps) for maps in saved.maps)
    scale = next((each for each in scales if each is not None), ColorScale())
    finite = saved.maps[saved.maps.isfinite()]
    signed = bool((finite < 0).any())
    for maps in saved.maps:
        heat = heatmap(maps, scale, signed)
        shown = saved.pictures
        yield heat, heat.color if shown is None else overlay(shown.float() / 255, heat)


_WRITERS: Mapping[str, Callable[[SavedMaps, Path], Iterator[Path]]] = {
    "numpy": _write_numpy,
    "csv": _write_table,
    "png": _write_overlays,
    "gif": _write_film,
}
_ENDINGS = {"numpy": ".npz", "csv": ".csv", "png": "", "gif": ".gif"}
