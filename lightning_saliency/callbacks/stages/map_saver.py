"""Keep the maps of a run on disk."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from lightning_saliency.callbacks.explanation import ExplanationRound
from lightning_saliency.callbacks.failures import warn
from lightning_saliency.callbacks.run_context import RunContext, is_fast_dev_run
from lightning_saliency.history.load import FOLDER
from lightning_saliency.history.map_files import (
    SAMPLES,
    MapFile,
    digests,
    map_files,
    write_arrays,
    write_maps,
)
from lightning_saliency.rendering import to_bytes

# After this many failures in a row there is no more trying.
_MOST_FAILURES = 3


class MapSaver:
    """Writes the maps of each explanation into the run's folder.

    Nothing that was there before is overwritten: a new run begins a folder of its own, a resumed
    one goes on in the old one and sets aside what was written after its checkpoint.

    Args:
        series: what is written, each in a folder of its own.
        prefix: stands before the names of these folders.
    """

    def __init__(self, series: Sequence[str], prefix: str = "") -> None:
        self._series = list(series)
        self._prefix = prefix
        self._folder: Path | None = None
        self._failures = 0
        self._is_new_process = True

    def begin(self, context: RunContext) -> None:
        """Choose the folder before training starts; called on all processes."""
        if is_fast_dev_run(context.trainer):
            return
        parent = context.folder()
        goes_on = context.trainer.ckpt_path is not None or self._folder is not None
        if not context.is_rank_zero:
            return
        chosen = parent / FOLDER
        number = 0
        while not goes_on and self._has_maps(chosen):
            number += 1
            chosen = parent / f"{FOLDER}_{number}"
        if number:
            warn(
                f"{parent / FOLDER} holds the maps of another run; those of this run go to "
                f"{chosen}."
            )
        self._folder = chosen
        self._failures, self._is_new_process = 0, True
        with self._reported(f"Maps cannot be written to {chosen}"):
            chosen.mkdir(parents=True, exist_ok=True)
            write_arrays(chosen / "try.npz", {})
            (chosen / "try.npz").unlink()

    def write(self, round: ExplanationRound, pictures: Tensor) -> None:
        """Write the maps of an explanation; only the first process does.

        Args:
            round: what was found.
            pictures: (N, 3, H, W), in [0, 1], the samples as they are shown.
        """
        if self._folder is None or self._failures >= _MOST_FAILURES:
            return
        shown = to_bytes(pictures)
        marks = digests(shown)
        with self._reported(f"The maps of epoch {round.epoch} could not be saved"):
            for series, found in round.explanations.items():
                folder = self._folder / f"{self._prefix}{series}"
                if self._is_new_process:
                    _set_aside(folder, round.epoch, round.step)
                if not (folder / SAMPLES).exists():
                    write_arrays(folder / SAMPLES, {"pictures": shown.contiguous().numpy()})
                entry = MapFile(
                    found.saliency,
                    found.target,
                    found.predicted,
                    found.probability,
                    tuple(round.sample_ids),
                    marks,
                    round.series[series].method.settings(),
                    round.epoch,
                    round.step,
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

    def _has_maps(self, root: Path) -> bool:
        return any(map_files(root / f"{self._prefix}{series}") for series in self._series)


def _set_aside(folder: Path, epoch: int, step: int) -> None:
    """Rename what was written after the checkpoint that this run goes on from."""
    for (old_epoch, old_step), path in map_files(folder).items():
        if (old_epoch, old_step) >= (epoch, step):
            path.rename(path.with_suffix(".npz.replaced"))
