"""Keep the maps of a run on disk."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from torch import Tensor

from lightning_saliency.callbacks.explanation import ExplanationRound
from lightning_saliency.callbacks.failures import warn
from lightning_saliency.callbacks.run_context import RunContext, is_fast_dev_run
from lightning_saliency.callbacks.stages.map_folder import MapFolder, map_folder
from lightning_saliency.history.map_files import (
    SAMPLES,
    MapFile,
    SeriesFacts,
    digests,
    map_files,
    write_maps,
    write_pictures,
)
from lightning_saliency.loggers.event_file import LEAST_RESERVE, check_room
from lightning_saliency.rendering import to_bytes

# After this many failures in a row there is no more trying.
_MOST_FAILURES = 3


class MapSaver:
    """Writes the maps of each explanation into the run's folder.

    Nothing that was there before is overwritten: a new run has a folder of its own, and a resumed
    one sets aside what was written after its checkpoint. Each series has a folder in it.

    Args:
        prefix: stands before the names of the series' folders.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._folder: MapFolder | None = None
        self._run = ""
        self._failures = 0
        self._is_new_process = True
        self._reserve = LEAST_RESERVE

    def state_dict(self) -> dict[str, Any]:
        """Return the name of the run for a checkpoint."""
        return {"run": self._run if self._folder is None else self._folder.run}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the folder of the run that saved the checkpoint, if it is there.

        Raises:
            TypeError: there is something else in it.
        """
        if not isinstance(state["run"], str):
            raise TypeError("run")
        self._run = state["run"]

    def begin(self, context: RunContext) -> None:
        """Choose the folder before training starts; called on all processes."""
        if is_fast_dev_run(context.trainer):
            return
        # Absolute, because a method may change the working directory.
        parent = context.folder().absolute()
        if not context.is_rank_zero:
            return
        run = None if context.trainer.ckpt_path is None else self._run
        self._folder = map_folder(context.trainer, parent, self._folder, run)
        self._reserve = context.disk_reserve
        self._failures, self._is_new_process = 0, True
        with self._reported(f"Maps cannot be written to {self._folder.path}"):
            self._folder.check()
            with TemporaryFile(dir=parent) as file:
                file.write(b"tried")

    def write(
        self, round: ExplanationRound, pictures: Tensor, facts: Callable[[str], SeriesFacts]
    ) -> None:
        """Write the maps of an explanation; only the first process does.

        Args:
            round: what was found.
            pictures: (N, 3, H, W), in [0, 1], the samples as they are shown.
            facts: from a series to what is known of it.
        """
        if self._folder is None or self._failures >= _MOST_FAILURES:
            return
        shown = to_bytes(pictures)
        marks = digests(shown)
        with self._reported(f"The maps of epoch {round.epoch} could not be saved"):
            size = sum(found.saliency.nbytes for found in round.explanations.values())
            check_room(self._folder.parent, size, self._reserve)
            root = self._folder.claim()
            for series, found in round.explanations.items():
                folder = root / f"{self._prefix}{series}"
                if self._is_new_process:
                    _set_aside(folder, round.epoch, round.step)
                if not (folder / SAMPLES).exists():
                    write_pictures(folder, shown, facts(series))
                entry = MapFile(
                    found.saliency,
                    found.target,
                    found.predicted,
                    found.sureness,
                    tuple(round.sample_ids),
                    marks,
                    round.series[series].method.settings(),
                    round.epoch,
                    round.step,
                    self._folder.run,
                )
                write_maps(folder, entry)
            self._is_new_process = False

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """Report a file that cannot be written, instead of raising it, and count."""
        try:
            yield
            self._failures = 0
        except OSError as error:
            self._failures += 1
            consequence = "training goes on"
            if self._failures >= _MOST_FAILURES:
                consequence += ", and after three failures in a row no more are tried"
            warn(f"{what}; {consequence}. {type(error).__name__}: {error}")


def _set_aside(folder: Path, epoch: int, step: int) -> None:
    """Rename what was written after the checkpoint that this run goes on from."""
    found = map_files(folder)
    later = [path for when, path in found.items() if when >= (epoch, step)]
    for path in later:
        path.rename(path.with_suffix(".npz.replaced"))
    # Nothing is left that the pictures belong to, and this run may explain others.
    if later and len(later) == len(found) and (folder / SAMPLES).exists():
        (folder / SAMPLES).rename(folder / f"{SAMPLES}.replaced")
