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
import warnings
from contextlib import closing
from pathlib import Path

import lightning.pytorch as pl
import torch
from pointing_fixtures import Blobs, colours_model, watched

from lightning_saliency.benchmark.pointing_results import PointingResults
from lightning_saliency.evaluation import run_pointing_game

PICTURES = 90
KILLS = 10


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
    child = os.fork()
    if child == 0:
        try:
            (folder / "table").write_text(play(folder))
        finally:
            os._exit(0)
    return child


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
        child = start(folder)
        while len(finished(folder)) < wanted:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done = finished(folder)
        print(*sorted(done), sep="\t", flush=True)
        with log.open("a") as file:
            file.write("killed\n")
    os.waitpid(start(folder), 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
