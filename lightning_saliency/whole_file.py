"""Files that are complete or absent."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def write_whole(path: Path, content: bytes | Callable[[IO[bytes]], Any]) -> Path:
    """Write a file so that it is complete or absent; one that is there stays until then.

    Args:
        path: of the file; its folder is there.
        content: of it, or what writes it.

    Returns:
        The path.

    Raises:
        OSError: it cannot be written; no partial file is left.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return path
