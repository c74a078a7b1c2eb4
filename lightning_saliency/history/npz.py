"""Read ``.npz`` files that anybody may have written: no pickles, nothing larger than the file says.

NumPy's own reader answers a foreign file with advice to trust it. Here the names, types and shapes
of the arrays are compared with what is expected before any of their data are read.
"""

import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

# More than any header of a plain array.
_LONGEST_HEADER = 10_000


class UnreadableError(Exception):
    """A file is damaged, or something else; the message says in which way."""


def read_arrays(path: Path, kinds: Mapping[str, tuple[str, int]]) -> dict[str, NDArray[Any]]:
    """Read arrays of known types.

    Args:
        path: of the file.
        kinds: by the arrays' names, their type (``"f4"``, or ``"U"`` for text of any length) and
            number of dimensions. Other arrays in the file are left alone.

    Raises:
        UnreadableError: there is no such file, it is none of this kind, or it is damaged.
    """
    # A pipe would be waited for.
    if not path.is_file():
        raise UnreadableError("it is no file")
    try:
        with zipfile.ZipFile(path) as archive:
            missing = kinds.keys() - {name.removesuffix(".npy") for name in archive.namelist()}
            if missing:
                raise UnreadableError(f"it has no array {sorted(missing)[0]!r}")
            return {name: _read(archive, name, *kind) for name, kind in kinds.items()}
    except UnreadableError:
        raise
    except zipfile.BadZipFile as error:
        raise UnreadableError("it is no .npz file, or a damaged one") from error
    except MemoryError as error:
        raise UnreadableError("its arrays do not fit into memory") from error
    # What a damaged archive raises is zlib.error, struct.error, NotImplementedError and others.
    except Exception as error:
        raise UnreadableError(f"it is damaged ({type(error).__name__})") from error


def _read(archive: zipfile.ZipFile, name: str, kind: str, dimensions: int) -> NDArray[Any]:
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as file:
        shape, dtype = _header(file, name)
        size = prod(shape) * dtype.itemsize
        is_kind = dtype.kind == "U" if kind == "U" else dtype == np.dtype(kind)
        if not is_kind or len(shape) != dimensions:
            raise UnreadableError(
                f"its array {name!r} has type {dtype} and shape {shape}, where {dimensions} "
                f"dimensions of {'text' if kind == 'U' else np.dtype(kind)} are expected"
            )
        if size > entry.file_size:
            raise UnreadableError(f"its array {name!r} ends before its shape {shape} is filled")
    with archive.open(entry) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _header(file: Any, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        shape, _, dtype = _parsed_header(file)
    except zipfile.BadZipFile:
        raise
    # NumPy evaluates it as a literal of Python, which raises whatever its text leads to.
    except Exception as error:
        raise UnreadableError(f"its entry {name!r} is no array") from error
    if dtype.hasobject:
        raise UnreadableError(f"its array {name!r} holds pickled objects, which can run programs")
    return shape, dtype


def _parsed_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        found = np.lib.format.read_array_header_1_0(file, max_header_size=_LONGEST_HEADER)
    elif version == (2, 0):
        found = np.lib.format.read_array_header_2_0(file, max_header_size=_LONGEST_HEADER)
    else:
        raise ValueError(f"version {version}")
    shape, is_fortran, dtype = found
    if any(isinstance(length, bool) or length < 0 for length in shape):
        raise ValueError(f"shape {shape}")
    return shape, is_fortran, dtype
