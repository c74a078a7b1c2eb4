"""Saliency maps on disk: one file for each explanation of a series, readable with NumPy alone.

A run's maps are in ``saliency_maps/<series>/epoch=<e>-step=<s>.npz``, each with the arrays of
:class:`MapFile`; ``samples.npz`` next to them has the explained images.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.errors import InputError

SAMPLES = "samples.npz"
"""The file with the explained images, next to those with the maps."""
TENSORS = ("maps", "target", "predicted", "probability")
"""What is kept as arrays, each with one entry for each sample."""
_NAME = re.compile(r"epoch=(\d+)-step=(\d+)\.npz")
_FORMAT = 1


@dataclass(frozen=True)
class MapFile:
    """One explanation of one series.

    Attributes:
        maps: (N, 1, H, W), float32.
        target: (N,), int64, the explained classes.
        predicted: (N,), int64, the classes that the model predicted.
        probability: (N,), float32, of the explained classes.
        sample_ids: N indices into the validation dataset if the samples were given so, else their
            positions among the first ones.
        digests: N short texts, equal for equal pictures.
        settings: of the method and of the callback, as plain values.
        epoch: of the run.
        step: at which the numbers of this explanation were logged.
    """

    maps: Tensor
    target: Tensor
    predicted: Tensor
    probability: Tensor
    sample_ids: tuple[int, ...]
    digests: tuple[str, ...]
    settings: Mapping[str, Any]
    epoch: int
    step: int


def file_name(epoch: int, step: int) -> str:
    """Return the name of an explanation's file; names sort as explanations follow each other.

    Args:
        epoch: of the run.
        step: of its numbers.
    """
    return f"epoch={epoch:05d}-step={step:09d}.npz"


def map_files(folder: Path) -> dict[tuple[int, int], Path]:
    """Return the files of a series, by epoch and step, oldest first.

    Args:
        folder: of the series; need not exist.
    """
    found = {}
    for path in folder.glob("*.npz"):
        match = _NAME.fullmatch(path.name)
        if match:
            found[int(match[1]), int(match[2])] = path
    return dict(sorted(found.items()))


def digests(pictures: Tensor) -> tuple[str, ...]:
    """Return a short text for each picture, the same for the same picture.

    Args:
        pictures: (N, 3, H, W), uint8.
    """
    each = (one.contiguous().cpu().numpy().tobytes() for one in pictures)
    return tuple(hashlib.sha256(data).hexdigest()[:16] for data in each)


def write_maps(folder: Path, entry: MapFile) -> Path:
    """Write an explanation.

    Args:
        folder: of the series; it is made if needed.
        entry: the explanation.

    Returns:
        The path of the file.

    Raises:
        OSError: the file cannot be written; no partial file is left.
    """
    about = {
        "format": _FORMAT,
        "epoch": entry.epoch,
        "step": entry.step,
        "sample_ids": list(entry.sample_ids),
        "digests": list(entry.digests),
        "settings": dict(entry.settings),
    }
    tensors = {name: getattr(entry, name).cpu() for name in TENSORS}
    arrays = {
        name: (t.float() if t.is_floating_point() else t).numpy() for name, t in tensors.items()
    }
    path = folder / file_name(entry.epoch, entry.step)
    write_arrays(path, {**arrays, "about": np.array(json.dumps(about))})
    return path


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays so that the file is complete or absent.

    Args:
        path: of the ``.npz`` file; its folder is made if needed.
        arrays: by name.

    Raises:
        OSError: the file cannot be written; no partial file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_maps(path: Path) -> MapFile:
    """Read an explanation.

    Args:
        path: of its file.

    Raises:
        InputError: it is not a file of this kind, or it is damaged.
    """
    try:
        # NumPy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            about = json.loads(str(found["about"]))
            return MapFile(
                **{name: torch.from_numpy(found[name]) for name in TENSORS},
                sample_ids=tuple(about["sample_ids"]),
                digests=tuple(about["digests"]),
                settings=about["settings"],
                epoch=about["epoch"],
                step=about["step"],
            )
    except Exception as error:
        raise InputError(
            f"Expected a file of saliency maps, got {path}, which cannot be read as one "
            f"({type(error).__name__}: {error}). Remove it if it is damaged."
        ) from error
