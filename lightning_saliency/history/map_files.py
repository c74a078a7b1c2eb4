"""Saliency maps on disk: one file for each explanation of a series, readable with NumPy alone.

A run's maps are in ``saliency_maps/<series>/epoch=<e>-step=<s>.npz``, each with the arrays of
:class:`MapFile`; ``samples.npz`` next to them has the explained images.
"""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.history.npz import UnreadableError, read_arrays

SAMPLES = "samples.npz"
"""The file with the explained images, next to those with the maps."""
TENSORS = ("maps", "target", "predicted", "probability")
"""What is kept as arrays, each with one entry for each sample."""
_NAME = re.compile(r"epoch=(\d+)-step=(\d+)\.npz")
_FORMAT = 1
_KINDS = {
    "maps": ("f4", 4),
    "target": ("i8", 1),
    "predicted": ("i8", 1),
    "probability": ("f4", 1),
    "about": ("U", 0),
}


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
        run: of all files of one run the same, of other runs another; "" in those of version 0.1.0.
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
    run: str = ""


@dataclass(frozen=True)
class SeriesFacts:
    """What is written once for a series, next to its maps; not in files of earlier versions.

    Attributes:
        labels: (N,), int64, the right classes; None if they are not known.
        class_names: of all classes; None if they were not given.
        has_offset: whether the maps' least value is to be subtracted before they are shown.
        when_zero: what it means that a map is zero everywhere, in a few words; "" if not known.
        score_name: what is explained where that is no class; "" otherwise.
        run: of the run and the callback, as plain values.
    """

    labels: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    has_offset: bool = False
    when_zero: str = ""
    score_name: str = ""
    run: Mapping[str, Any] = field(default_factory=dict)


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
        "run": entry.run,
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


def write_pictures(folder: Path, pictures: Tensor, facts: SeriesFacts | None = None) -> None:
    """Write the explained images next to the maps.

    Args:
        folder: of the series; it is made if needed.
        pictures: (N, 3, H, W), uint8.
        facts: what is known of them and of the run.

    Raises:
        OSError: the file cannot be written; no partial file is left.
    """
    known = vars(facts or SeriesFacts())
    plain = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in known.items()}
    about = np.array(json.dumps({"format": _FORMAT, "facts": plain}, default=str))
    write_arrays(folder / SAMPLES, {"pictures": pictures.contiguous().numpy(), "about": about})


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
        InputError: it is not a file of this kind, or damaged, or of a newer version.
    """
    try:
        arrays = read_arrays(path, _KINDS)
        about = _about(arrays.pop("about"))
        return _checked(arrays, about, path)
    except UnreadableError as error:
        raise InputError(
            f"Expected a file of saliency maps, got {path}, which cannot be read as one: {error}. "
            "Remove it if it is damaged; the other explanations can be read without it."
        ) from error


def read_pictures(path: Path, expected: tuple[str, ...]) -> tuple[Tensor, SeriesFacts]:
    """Read the explained images, (N, 3, H, W), uint8, and what is known of them.

    Args:
        path: of the file.
        expected: digests of the images that belong to the maps.

    Raises:
        InputError: it is not a file of this kind, or damaged, or of a newer version, or the images
            are others.
    """
    try:
        return _pictures_in(path, expected)
    except UnreadableError as error:
        raise InputError(
            f"Expected a file of explained pictures, got {path}, which cannot be used as one: "
            f"{error}. Remove it if it is damaged or of another run; the maps can be read without "
            "it."
        ) from error


def _pictures_in(path: Path, expected: tuple[str, ...]) -> tuple[Tensor, SeriesFacts]:
    pictures = torch.from_numpy(read_arrays(path, {"pictures": ("u1", 4)})["pictures"])
    about: dict[str, Any] = {}
    # Version 0.1.0 wrote none.
    if "about" in _names(path):
        about = _about(read_arrays(path, {"about": ("U", 0)})["about"])
    if digests(pictures) != expected:
        raise UnreadableError("its pictures are not those that the maps next to it explain")
    return pictures, _facts(about.get("facts", {}), len(pictures))


def _facts(found: Any, count: int) -> SeriesFacts:
    """Return what is known of a series; what is not there, or new, is left out."""
    if not isinstance(found, dict):
        raise UnreadableError("what it says of the run is no list of names and values")
    labels, names, run = (found.get(key) for key in ("labels", "class_names", "run"))
    if labels is not None:
        if len(_list(found, "labels", int)) != count:
            raise UnreadableError(f"it has {len(labels)} labels of {count} samples")
        labels = torch.tensor(labels, dtype=torch.int64)
    if names is not None:
        names = tuple(_list(found, "class_names", str))
    texts = {key: found.get(key, "") for key in ("when_zero", "score_name")}
    if not all(isinstance(each, str) for each in texts.values()):
        raise UnreadableError("what it says of the maps is no text")
    offset = found.get("has_offset") is True
    return SeriesFacts(labels, names, offset, **texts, run=run if isinstance(run, dict) else {})


def _names(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def _about(text: NDArray[Any]) -> dict[str, Any]:
    """Return what a file says of itself, once its format is known to be ours."""
    try:
        found = json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise UnreadableError("its description is no JSON") from error
    version = found.get("format") if isinstance(found, dict) else None
    if type(version) is not int or version < 1:
        raise UnreadableError("it does not say the version of its format, as ours do")
    if version > _FORMAT:
        raise UnreadableError(
            f"it has format {version}, and this version of lightning_saliency knows formats up to "
            f"{_FORMAT}. Do not remove it, but update lightning_saliency"
        )
    return dict(found)


def _checked(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any], path: Path) -> MapFile:
    for name, wanted in {"epoch": int, "step": int, "settings": dict}.items():
        if type(about.get(name)) is not wanted:
            raise UnreadableError(f"its description has no {name}")
    if not isinstance(about.get("run", ""), str):
        raise UnreadableError("its description has no name of the run")
    if 0 in arrays["maps"].shape or arrays["maps"].shape[1] != 1:
        raise UnreadableError(f"its maps have shape {arrays['maps'].shape}, not (N, 1, H, W)")
    lists = {"sample_ids": _list(about, "sample_ids", int), "digests": _list(about, "digests", str)}
    lengths = {name: len(each) for name, each in arrays.items()}
    lengths.update({name: len(each) for name, each in lists.items()})
    if len(set(lengths.values())) > 1:
        raise UnreadableError(f"its parts are of different numbers of samples: {lengths}")
    named = _NAME.fullmatch(path.name)
    epoch, step = about["epoch"], about["step"]
    if named and (int(named[1]), int(named[2])) != (epoch, step):
        raise UnreadableError(f"it holds the maps of {file_name(epoch, step)}, but is named else")
    return MapFile(
        **{name: torch.from_numpy(arrays[name]) for name in TENSORS},
        sample_ids=tuple(about["sample_ids"]),
        digests=tuple(about["digests"]),
        settings=about["settings"],
        epoch=epoch,
        step=step,
        run=about.get("run", ""),
    )


def _list(about: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    found = about.get(name)
    if not isinstance(found, list) or any(type(each) is not kind for each in found):
        raise UnreadableError(f"its description has no list of {name}")
    return found
