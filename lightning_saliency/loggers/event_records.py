"""Records of TensorBoard's event files, with a checksum that takes no time.

TensorBoard computes the checksum of each record byte by byte in Python: 0.1 ms for each KiB. For a
picture that is longer than drawing and compressing it, and although it happens in another thread,
training waits for it, because only one thread at a time runs Python.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["masked_crc32c", "quicken"]

# The polynomial of Castagnoli, bits in reverse.
_POLYNOMIAL = 0x82F63B78
_ALL_ONES = 0xFFFFFFFF
_MASK = 0xA282EAD8
# How many bytes are summed at once: more need larger tables, fewer a longer loop.
_LANE = 256
_PLACE_STARTS = 256 * np.arange(_LANE)
# Shorter records, such as numbers, go the usual way.
_SHORT = 2048


def quicken(file_writer: object) -> bool:
    """Let TensorBoard's writer compute the checksums of long records by :func:`masked_crc32c`.

    The file that it writes is the same to the last bit. That is tried on a record first, and a
    writer that is put together in another way, or writes another format, is left as it is.

    Args:
        file_writer: the ``FileWriter`` of a ``torch.utils.tensorboard.SummaryWriter``.

    Returns:
        Whether it does so now.
    """
    records: Any = file_writer
    for part in ("event_writer", "_async_writer", "_writer"):
        records = getattr(records, part, None)
    if type(records) is not _known_writer():
        return False
    if "write" not in vars(records):
        usual = records.write

        def write(data: bytes) -> None:
            if len(data) < _SHORT:
                usual(data)
            else:
                _write_quickly(records, data)

        records.write = write
    return True


@lru_cache(maxsize=1)
def _known_writer() -> type[Any] | None:
    """Return TensorBoard's class for records if it writes what :func:`_write_quickly` does."""
    data = bytes(range(256)) * (_SHORT // 256 + 1)
    usual, quick = BytesIO(), BytesIO()
    try:
        known: type[Any] = import_module("tensorboard.summary.writer.record_writer").RecordWriter
        known(usual).write(data)
        _write_quickly(known(quick), data)
    except (ImportError, AttributeError, TypeError):
        return None
    return known if usual.getvalue() == quick.getvalue() else None


def _write_quickly(records: Any, data: bytes) -> None:
    length = struct.pack("<Q", len(data))
    checks = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    records._writer.write(length + checks[0] + data + checks[1])


def masked_crc32c(data: bytes) -> int:
    """Return the checksum that TensorFlow's record files have: CRC-32C, rotated and shifted.

    A checksum is linear: each byte contributes a value that depends on its place alone, and these
    are joined by exclusive or. So the bytes of one stretch are looked up all at once, and the
    stretches are joined one after the other. (CRC-32C: RFC 3720, appendix B.4.)

    Args:
        data: any bytes.

    Returns:
        An integer of 32 bits.
    """
    places = _places()
    first, second, third, fourth = (row.tolist() for row in places[:4])
    last = places[-1].tolist()
    crc, start = _ALL_ONES, len(data) % _LANE
    for byte in data[:start]:
        crc = last[(crc ^ byte) & 255] ^ crc >> 8
    stretches = np.frombuffer(data, np.uint8)[start:].reshape(-1, _LANE)
    values = places.ravel().take(stretches + _PLACE_STARTS)
    for value in np.bitwise_xor.reduce(values, axis=1).tolist():
        # What came before acts on a stretch as if it were added to its first four bytes.
        crc = (
            first[crc & 255]
            ^ second[crc >> 8 & 255]
            ^ third[crc >> 16 & 255]
            ^ fourth[crc >> 24]
            ^ value
        )
    crc ^= _ALL_ONES
    return ((crc >> 15 | crc << 17) + _MASK) & _ALL_ONES


@lru_cache(maxsize=1)
def _places() -> npt.NDArray[np.uint32]:
    """Return what a byte of each value contributes, by its place in a stretch: (256, 256)."""
    row = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = np.where(row & 1, row >> 1 ^ np.uint32(_POLYNOMIAL), row >> 1)
    rows = [row]
    while len(rows) < _LANE:
        # One place further from the end: as if a zero followed.
        rows.append(row[rows[-1] & 255] ^ rows[-1] >> 8)
    return np.stack(rows[::-1])
