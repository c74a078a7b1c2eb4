"""What remains of a whole run: the pinned maps, a film, charts side by side, maps on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_saliency.callbacks.explanation.explained import Explained
from lightning_saliency.callbacks.monitor import Monitor
from lightning_saliency.callbacks.record.save_maps import MapSaver
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.loggers import log_charts, log_film, log_image

__all__ = ["CHARTS", "History"]

CHARTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "saliency": {
        "loss": [".*loss.*"],
        "overlap with the previous explanation": [".*saliency_drift/.*/previous/top10_iou"],
        "overlap with the pinned explanation": [".*saliency_drift/.*/pinned/top10_iou"],
        "order of the pixels, previous": [".*saliency_drift/.*/previous/spearman"],
        "flips": [".*saliency_target/.*/flips"],
        "regions": [".*saliency_region/.*", ".*saliency_object/.*"],
        "alarms (above 1)": [".*saliency_alarm/.*"],
    }
}
"""TensorBoard's custom scalars: what stands together in a chart, as regular expressions."""


class History:
    """Keeps what a later look at the run needs.

    Args:
        monitor: explains.
        saver: writes the maps; None to write none.
        charts: whether TensorBoard's custom scalars are laid out.
    """

    def __init__(self, monitor: Monitor, saver: MapSaver | None, charts: bool) -> None:
        self._monitor = monitor
        self._saver = saver
        self._charts = charts
        self._pinned_epochs: dict[str, int] = {}
        self._last_step = 0

    def begin(self, trainer: pl.Trainer) -> None:
        """Be ready for a run; called on all processes.

        Args:
            trainer: of the run.
        """
        if self._saver is not None:
            self._saver.begin(trainer)
        if self._charts and trainer.is_global_zero:
            for logger in trainer.loggers:
                log_charts(logger, CHARTS)

    def add(self, trainer: pl.Trainer, explained: Explained, indices: Sequence[int] | None) -> None:
        """Keep an explanation.

        Args:
            trainer: of the run.
            explained: what was found.
            indices: of the samples in the validation dataset, None if they are the first.
        """
        self._last_step = explained.step
        if trainer.is_global_zero:
            self._show_pinned(trainer, explained)
        if self._saver is not None and trainer.state.fn == "fit":
            pictures = self._monitor.pictures.show(explained.samples.images)
            ids = range(len(pictures)) if indices is None else indices
            self._saver.write(explained, pictures, list(ids), self._settings(explained))

    def end(self, trainer: pl.Trainer) -> None:
        """Write the films; nothing that goes wrong with them ends the run.

        Args:
            trainer: of the run.
        """
        if not trainer.is_global_zero:
            return
        try:
            for series, film in self._monitor.pictures.films():
                for logger in trainer.loggers:
                    tag = f"{self._monitor.prefix}saliency_timelapse/{series}"
                    log_film(logger, tag, film, self._last_step)
        except Exception as error:
            rank_zero_warn(
                f"The film of the maps could not be logged. {type(error).__name__}: {error}",
                category=SaliencyWarning,
            )

    def _show_pinned(self, trainer: pl.Trainer, explained: Explained) -> None:
        for series in explained.explanations:
            references = explained.references[series]
            pinned = references.pinned
            if pinned is None or not references.is_settled:
                continue
            if self._pinned_epochs.get(series) == pinned.epoch:
                continue
            self._pinned_epochs[series] = pinned.epoch
            picture = self._monitor.pictures.at_times(
                series,
                explained.samples.images,
                [(f"epoch {pinned.epoch}", pinned.maps)],
                [f"{index}" for index in range(len(pinned.maps))],
                f"{series}, pinned",
            )
            tag = f"{self._monitor.prefix}saliency_pinned/{series}"
            for logger in trainer.loggers:
                log_image(logger, tag, picture, explained.step)

    def _settings(self, explained: Explained) -> dict[str, dict[str, Any]]:
        settings = {}
        for series in explained.explanations:
            method = self._monitor.method_of(series)
            settings[series] = {
                "method": type(method).__name__,
                **{name: _plain(value) for name, value in asdict(method).items()},
            }
        return settings


def _plain(value: object) -> object:
    """Return what JSON can hold: plain values as they are, others in words."""
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value)
