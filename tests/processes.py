"""Run a script in several processes at once, and read what each has found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


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


@contextmanager
def process_group(store: str | Path, rank: int = 0, world: int = 1) -> Iterator[None]:
    """Be one of the processes of a group, as Lightning finds it in a cluster.

    Args:
        store: the file in which the processes meet.
        rank: of this process.
        world: how many processes there are.
    """
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def member(rank: int, world: int, store: str) -> Iterator[None]:
    """Be the process that :func:`run_together` has started: quiet, on one thread, of a group.

    One process alone is in no group.
    """
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(world))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if world == 1:
            yield
            return
        with process_group(store, rank, world):
            yield
            dist.barrier()
