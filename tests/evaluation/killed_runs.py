"""Runs of the pointing game that are killed at random places; a program of its own.

It forks, so that torch is imported once for all the runs::

    python killed_runs.py FOLDER
"""

import os
import random
import signal
import sqlite3
import sys
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


def start(folder: Path, until: int | None = None, seconds: float = 0.0) -> int:
    """Play in a process of its own, and return how that ended, as ``os.waitpid`` tells it.

    Args:
        folder: for the results and the table.
        until: so many pictures are finished in the file, and then the process is killed.
        seconds: that it may go on until it is. The alarm is its own: a process that watches it may
            come too late, when the machine has other things to do.
    """
    child = os.fork()
    if child == 0:
        try:
            if until is not None:
                kill_this_process(folder, until, seconds)
            (folder / "table").write_text(play(folder))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def kill_this_process(folder: Path, until: int, seconds: float) -> None:
    add, armed = PointingResults.add, False

    def add_and_arm(self: PointingResults, run: int, results: Iterable[PictureResult]) -> None:
        nonlocal armed
        add(self, run, results)
        if not armed and len(finished(folder)) >= until:
            armed = True
            # Nobody handles this signal: the kernel ends the process wherever it is.
            signal.setitimer(signal.ITIMER_REAL, seconds)

    PointingResults.add = add_and_arm  # type: ignore[method-assign]


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
        status = start(folder, wanted, rng.uniform(1e-4, LONGEST))
        if os.waitstatus_to_exitcode(status) != -signal.SIGALRM:
            raise SystemExit(f"Run {kill} was not killed, but ended with status {status}.")
        done = finished(folder)
        print(*sorted(done), sep="\t", flush=True)
        with log.open("a") as file:
            file.write("killed\n")
    if start(folder) != 0:
        raise SystemExit("The last run failed.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
