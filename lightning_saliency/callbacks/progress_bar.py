"""Show long explanations in Lightning's progress bar, beside its own bars."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from typing_extensions import override

from lightning_saliency.attribution.progress import listening

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


def _line_of(trainer: pl.Trainer, description: str) -> _Line | None:
    bar = trainer.progress_bar_callback
    if isinstance(bar, TQDMProgressBar) and bar.is_enabled:
        return _TQDMLine(bar, description)
    if isinstance(bar, RichProgressBar) and bar.is_enabled and bar.progress is not None:
        return _RichLine(bar, description)
    return None


class _Line(ABC):
    """A line that appears when an explanation has shown to be long."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._due = time.monotonic() + _PATIENCE
        self._is_shown = False

    def update(self, done: int, total: int) -> None:
        if not self._is_shown and time.monotonic() < self._due:
            return
        # What a terminal does not take is no reason to lose the explanation.
        with suppress(Exception):
            if not self._is_shown:
                self._is_shown = True
                self._show(done, total)
            self._move(done)

    def close(self) -> None:
        with suppress(Exception):
            if self._is_shown:
                self._hide()

    @abstractmethod
    def _show(self, done: int, total: int) -> None: ...

    @abstractmethod
    def _move(self, done: int) -> None: ...

    @abstractmethod
    def _hide(self) -> None: ...


class _TQDMLine(_Line):
    def __init__(self, bar: TQDMProgressBar, description: str) -> None:
        super().__init__(description)
        self._format = bar.BAR_FORMAT

    @override
    def _show(self, done: int, total: int) -> None:
        # Without a position tqdm takes the first line that is free.
        self._tqdm = Tqdm(
            desc=self._description,
            total=total,
            initial=done,
            leave=False,
            dynamic_ncols=True,
            file=sys.stdout,
            bar_format=self._format,
        )

    @override
    def _move(self, done: int) -> None:
        self._tqdm.update(done - self._tqdm.n)

    @override
    def _hide(self) -> None:
        self._tqdm.close()


class _RichLine(_Line):
    def __init__(self, bar: RichProgressBar, description: str) -> None:
        super().__init__(description)
        self._bar = bar
        self._progress: Any = bar.progress

    @override
    def _show(self, done: int, total: int) -> None:
        self._task = self._progress.add_task(self._description, total=total, completed=done)

    @override
    def _move(self, done: int) -> None:
        self._progress.update(self._task, completed=done)
        self._bar.refresh()

    @override
    def _hide(self) -> None:
        # Not removed: Lightning finds its own tasks by their place in the list of all.
        self._progress.update(self._task, visible=False)
        self._bar.refresh()
