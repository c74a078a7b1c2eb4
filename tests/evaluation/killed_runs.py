"""Runs of the pointing game that are killed at random places; a program of its own.

It forks, so that torch is imported once for all the runs::

    python killed_runs.py FOLDER
"""

import os
import random
import signal
import sqlite3
import sys
import time
import traceback
import warnings
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import lightning.pytorch as pl
import torch
from pointing_fixtures import Blobs, colours_model, watched

from lightning_saliency.benchmark.pointing_results import PictureResult, PointingResults
from lightning_saliency.evaluation import run_pointing_game

PICTURES = 90
KILLS = 10
# Seconds; a batch of pictures takes about half of it.
LONGEST = 0.005


def play(folder: Path) -> str:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    report = run_pointing_game(
        [watched()],
        colours_model(),
        Blobs(PICTURES),
        folder / "results.sqlite",
        trainer,
        batch_size=4,
    )
    return report.markdown()


def start(folder: Path) -> int:
    """Play in a process of its own to the end, and return its exit code."""
    return ended(begin(folder))


def start_and_kill(folder: Path, until: int, seconds: float) -> int:
    """Play in a process of its own, kill it with SIGKILL, and return its exit code.

    Args:
        folder: for the results and the table.
        until: so many pictures are finished in the file, and then the process is killed.
        seconds: that it may go on until it is.
    """
    told, tells = os.pipe()
    child = begin(folder, until, tells)
    os.close(tells)
    # Nothing is read when the process has ended by itself.
    if os.read(told, 1):
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    os.close(told)
    return ended(child)


def begin(folder: Path, until: int | None = None, tells: int | None = None) -> int:
    child = os.fork()
    if child == 0:
        try:
            if until is not None and tells is not None:
                tell(folder, until, tells)
            (folder / "table").write_text(play(folder))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tell(folder: Path, until: int, tells: int) -> None:
    """Write to a pipe when so many pictures are finished, and do not finish the last of all."""
    add, told = PointingResults.add, False

    def tell_once() -> None:
        nonlocal told
        if not told:
            told = True
            os.write(tells, b"!")

    def add_and_tell(self: PointingResults, run: int, results: Iterable[PictureResult]) -> None:
        results = list(results)
        if len(finished(folder)) + len(results) >= PICTURES:
            tell_once()
            # Who kills comes late when the machine has other things to do.
            time.sleep(60)
        add(self, run, results)
        if len(finished(folder)) >= until:
            tell_once()

    PointingResults.add = add_and_tell  # type: ignore[method-assign]


def finished(folder: Path) -> set[str]:
    path = folder / "results.sqlite"
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        return {name for (name,) in connection.execute("SELECT picture FROM pictures")}


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rng = random.Random(0)
    log = Path(os.environ["WATCHED_LOG"])
    log.touch()
    PointingResults(folder / "results.sqlite")
    for kill in range(KILLS):
        before = len(finished(folder))
        # Somewhere in what is left, so that each run comes a little further.
        wanted = before + rng.randint(0, max(1, (PICTURES - before) // (KILLS + 1 - kill)))
        code = start_and_kill(folder, wanted, rng.uniform(1e-4, LONGEST))
        if code != -signal.SIGKILL:
            raise SystemExit(f"Run {kill} was not killed, but ended with {code}.")
        done = finished(folder)
        print(*sorted(done), sep="\t", flush=True)
        with log.open("a") as file:
            file.write("killed\n")
    if start(folder) != 0:
        raise SystemExit("The last run failed.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
