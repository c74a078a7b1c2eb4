"""TensorBoard's event file on a disk that fills: pictures may be lost, the run's numbers must not.

Lightning's scalars and our pictures share one writer, whose thread dies of the first write that
fails; the next scalar then raises, and ends a run that would have gone on without pictures. So
nothing of ours is written unless room is left for what the run itself will write, and where a write
of ours fails all the same, the writer is taken apart: its file ends with the last whole record, and
the next scalar opens another one. Readers follow several files of a folder one after another.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

try:
    import resource
except ImportError:  # Windows has no such limits.
    resource = None  # type: ignore[assignment]


# Writers whose files are limited, and half full.
_FULL: WeakSet[Any] = WeakSet()

LEAST_RESERVE = 64 * 2**20
"""Bytes that are left free for the run itself, at least."""


def check_room(folder: object, size: int, reserve: int) -> None:
    """Check that a file system has room for something of ours and for what the run will write.

    Args:
        folder: on it; one that is not on a local disk is not looked at.
        size: of what is to be written, bytes.
        reserve: bytes that must be left.

    Raises:
        OSError: it has not (``ENOSPC``).
    """
    try:
        free = shutil.disk_usage(str(folder)).free
    except (OSError, ValueError):
        return
    if free < size + reserve:
        raise OSError(
            errno.ENOSPC,
            f"{free / 2**20:.0f} MB are free, and {(size + reserve) / 2**20:.0f} MB are needed to "
            "leave room for checkpoints and logs. No space left for pictures on device",
            str(folder),
        )


def check_open_files() -> None:
    """Check that one more file can be opened: a writer opens its own for each write.

    Raises:
        OSError: it cannot (``EMFILE``).
    """
    os.close(os.open(os.devnull, os.O_RDONLY))


def check_limit(writer: Any, size: int) -> None:
    """Check that an event file may grow by something of ours, where files may not (``ulimit -f``).

    Half of a file is ours. When it is full, the run's numbers get a file of their own, and nothing
    of ours is written any more.

    Args:
        writer: a ``SummaryWriter``.
        size: of what is to be written, bytes.

    Raises:
        OSError: it may not (``EFBIG``).
    """
    limit = _size_limit()
    path = None if limit is None else _path_of(writer)
    if limit is None or path is None or not path.exists():
        return
    if writer not in _FULL and path.stat().st_size + size <= limit // 2:
        return
    if writer not in _FULL:
        reopen(writer)
        _FULL.add(writer)
    raise OSError(errno.EFBIG, f"File too large for pictures: files of {limit} bytes are allowed")


def _size_limit() -> int | None:
    if not hasattr(resource, "RLIMIT_FSIZE"):
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else int(limit)


def _path_of(writer: Any) -> Path | None:
    events = getattr(getattr(writer, "file_writer", None), "event_writer", None)
    name = getattr(events, "_file_name", None)
    return None if name is None else Path(name)


def reopen(writer: Any) -> None:
    """Let a ``SummaryWriter`` whose thread may be dead go on in another file.

    Args:
        writer: of torch; others are left alone.
    """
    files = getattr(writer, "file_writer", None)
    if files is None:
        return
    path = _path_of(writer)
    with suppress(Exception):
        files.close()
    writer.file_writer = writer.all_writers = None
    if path is None:
        return
    with suppress(OSError):
        whole = length_of_whole_records(path)
        if whole < path.stat().st_size:
            os.truncate(path, whole)


def length_of_whole_records(path: Path) -> int:
    """Return how many bytes of an event file are whole records; reads their lengths alone.

    Args:
        path: of the file. A record is its length (8 bytes), a checksum (4), data, a checksum (4).
    """
    total, whole = path.stat().st_size, 0
    with path.open("rb") as file:
        while whole + 12 <= total:
            file.seek(whole)
            (length,) = struct.unpack("<Q", file.read(8))
            if whole + length + 16 > total:
                break
            whole += length + 16
    return whole
