"""Show long explanations in Lightning's progress bar, beside its own bars."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from lightning_saliency.attribution.progress import listening

_Hide: TypeAlias = Callable[[], object]
_Move: TypeAlias = Callable[[int], object]
_Show: TypeAlias = Callable[[int, int], tuple[_Move, _Hide]]

# Explanations that take no longer than this show nothing, so that nothing flickers.
_PATIENCE = 0.5  # seconds


@contextmanager
def progress_shown(trainer: pl.Trainer, name: str) -> Iterator[None]:
    """Show how far the explanation inside is, if it reports that and takes longer than a moment.

    A line of its own stands below Lightning's bars until the explanation is over. Nothing is shown
    where Lightning shows nothing: without a progress bar, with one that is switched off, and on
    all processes but the first; nor with a bar that is neither Lightning's tqdm nor its rich one.

    Args:
        trainer: whose progress bar it is.
        name: what is explained, ``"rise"``.
    """
    line = _line_of(trainer, f"Explaining {name}")
    if line is None:
        yield
        return
    try:
        with listening(line.update):
            yield
    finally:
        line.close()


def _line_of(trainer: pl.Trainer, description: str) -> "_Line | None":
    bar = trainer.progress_bar_callback
    if isinstance(bar, TQDMProgressBar) and bar.is_enabled:
        return _Line(partial(_show_by_tqdm, bar, description))
    if isinstance(bar, RichProgressBar) and bar.is_enabled and bar.progress is not None:
        return _Line(partial(_show_by_rich, bar, description))
    return None


class _Line:
    """A line that appears when an explanation has shown to be long.

    Args:
        show: from what is done and the total to what moves the line on, and what hides it.
    """

    def __init__(self, show: _Show) -> None:
        self._show = show
        self._due = time.monotonic() + _PATIENCE
        self._shown: tuple[_Move, _Hide] | None = None

    def update(self, done: int, total: int) -> None:
        if self._shown is None and time.monotonic() < self._due:
            return
        # What a terminal does not take is no reason to lose the explanation.
        with suppress(Exception):
            self._shown = self._shown or self._show(done, total)
            self._shown[0](done)

    def close(self) -> None:
        with suppress(Exception):
            if self._shown is not None:
                self._shown[1]()


def _show_by_tqdm(
    bar: TQDMProgressBar, description: str, done: int, total: int
) -> tuple[_Move, _Hide]:
    # Without a position tqdm takes the first line that is free.
    line = Tqdm(
        desc=description,
        total=total,
        initial=done,
        leave=False,
        dynamic_ncols=True,
        file=sys.stdout,
        bar_format=bar.BAR_FORMAT,
    )
    return lambda done: line.update(done - line.n), line.close


def _show_by_rich(
    bar: RichProgressBar, description: str, done: int, total: int
) -> tuple[_Move, _Hide]:
    progress: Any = bar.progress
    task = progress.add_task(description, total=total, completed=done)

    def change(**changes: object) -> None:
        progress.update(task, **changes)
        bar.refresh()

    # Not removed: Lightning finds its own tasks by their place in the list of all.
    return lambda done: change(completed=done), lambda: change(visible=False)
