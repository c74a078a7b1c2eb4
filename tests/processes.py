"""Run a script in several processes at once, and read what each has found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_together(script: Path, folder: Path, world: int, *arguments: str) -> list[Any]:
    """Return what each process wrote to its file, as JSON.

    Args:
        script: is given ``arguments``, its rank, the world's size, the file in which the
            processes meet, and the file to write to.
        folder: for the files.
        world: how many processes.
        arguments: the first ones.
    """
    outs = [folder / f"found{rank}" for rank in range(world)]
    logs = [(folder / f"log{rank}").open("w") for rank in range(world)]
    processes = []
    try:
        for rank in range(world):
            order = [*arguments, str(rank), str(world), str(folder / "store"), str(outs[rank])]
            command = [sys.executable, str(script), *order]
            processes.append(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=logs[rank])
            )
        codes = [process.wait(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for log in logs:
            log.close()
    assert codes == [0] * world, "\n".join(Path(log.name).read_text()[-2000:] for log in logs)
    return [json.loads(out.read_text()) for out in outs]
