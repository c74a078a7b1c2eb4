"""What a report is made of: the numbers of a whole run, and the maps that are still there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.image.saliency_map import degenerate
from lightning_saliency.metrics.map_statistics import top_tenth
from lightning_saliency.rendering import ColorScale
from lightning_saliency.rendering.class_names import class_name


@dataclass(frozen=True)
class AlarmRecord:
    """An alarm that sounded in a run.

    Attributes:
        series: for instance ``"grad_cam"``.
        reference: what it compared with: ``"previous"``, ``"pinned"`` or ``"evidence"``.
        epoch: at which it sounded.
        step: likewise.
        headline: in a few words.
        numbers: those that were out of the usual, each its tag, value, what is usual, and score.
        remark: a sentence.
    """

    series: str
    reference: str
    epoch: int
    step: int
    headline: str
    numbers: tuple[tuple[str, ...], ...]
    remark: str


@dataclass(frozen=True)
class Curve:
    """One number over a run.

    Attributes:
        name: as it was logged.
        steps: at which it was logged, ascending.
        values: one for each step.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class SeriesRecord:
    """One series of a run: E explanations of N samples.

    Attributes:
        name: for instance ``"grad_cam"`` or ``"grad_cam/predicted"``.
        settings: of the method, as plain values.
        epochs: E, in order; several may be equal.
        steps: E.
        target: (E, N), int64, the explained classes; -1 where that is no class.
        predicted: (E, N), int64; -1 where the model is no classifier.
        probability: (E, N), float32, of the explained classes, or the values of a score.
        moved: (E, N), float32, since the explanation before, in [0, 1]: 1 also from or to a map
            that shows nothing; NaN for the first, and where both show nothing.
        empty: (E, N), bool, which maps show nothing.
        sample_ids: N, the samples' numbers.
        inputs: (N, 3, h, w), uint8, the samples as they are shown, perhaps small; None if they
            were not kept.
        labels: (N,), int64, the right classes; None if they are not known.
        class_names: shown instead of class indices; None if there are none.
        available: which of the E explanations still have their maps, in order.
        maps: from one of these to its maps (N, 1, h, w), floating point, at most 64 x 64.
        scale: the colors of the run.
        signed: whether negative values have colors of their own.
        top_share: (N,), see :func:`top_share`, of the last explanation.
        when_zero: what it means that a map is zero everywhere; "" if not known.
        score_name: what is explained where that is no class; "" otherwise.
    """

    name: str
    settings: Mapping[str, Any]
    epochs: tuple[int, ...]
    steps: tuple[int, ...]
    target: Tensor
    predicted: Tensor
    probability: Tensor
    moved: Tensor
    empty: Tensor
    sample_ids: tuple[int, ...]
    inputs: Tensor | None
    labels: Tensor | None
    class_names: tuple[str, ...] | None
    available: tuple[int, ...]
    maps: Callable[[int], Tensor]
    scale: ColorScale
    signed: bool
    top_share: Tensor
    when_zero: str = ""
    score_name: str = ""

    def __len__(self) -> int:
        """Return the number of explanations."""
        return len(self.epochs)

    @property
    def drift(self) -> Tensor:
        """The mean movement since the explanation before, (E,); NaN where there is none.

        As it is logged: over the samples of which neither map is empty.
        """
        before = torch.cat([self.empty[:1], self.empty[:-1]])
        return self.moved.where(~(self.empty | before), torch.nan).nanmean(1)

    @property
    def flipped(self) -> Tensor:
        """Which samples have another predicted class than before, (E, N), bool."""
        before = torch.cat([self.predicted[:1], self.predicted[:-1]])
        return self.predicted != before

    @property
    def wrong(self) -> Tensor | None:
        """Which samples have a wrong predicted class, (E, N), bool; None if it is not known."""
        if self.labels is None or bool((self.predicted < 0).all()):
            return None
        return (self.predicted != self.labels) & (self.predicted >= 0)

    def class_name(self, index: int) -> str:
        """Return what is shown for a class."""
        return class_name(index, self.class_names)

    def name_of(self, sample: int) -> str:
        """Return the right class of a sample in words, or what is explained of it."""
        if self.score_name:
            return self.score_name
        known = self.target[-1] if self.labels is None else self.labels
        return self.class_name(int(known[sample]))


def top_share(maps: Tensor) -> Tensor:
    """Return the share of each map's magnitude in its tenth of the largest values.

    Args:
        maps: (N, 1, h, w), in the form in which they are compared.

    Returns:
        (N,), float64; NaN for a map that shows nothing.
    """
    amount = maps.double().abs().flatten(1)
    share = (amount * top_tenth(maps.double()).flatten(1)).sum(1) / amount.sum(1)
    return share.where(~degenerate(maps), torch.nan)


@dataclass(frozen=True)
class RunRecord:
    """What a run has left.

    Attributes:
        title: what the run is called.
        series: by name, at least one.
        loss: losses of training and validation, as far as they were logged.
        alarms: oldest first.
        is_watched: whether a DriftAlarm was among the callbacks; None if that is not known.
        run: of the run and the callback, as plain values.
        notes: what a reader has to know of what is missing.
    """

    title: str
    series: Mapping[str, SeriesRecord]
    loss: tuple[Curve, ...] = ()
    alarms: tuple[AlarmRecord, ...] = ()
    is_watched: bool | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def lead(self) -> SeriesRecord:
        """The series that the page speaks of first: that of the last alarm, or the first one."""
        named = [alarm.series for alarm in self.alarms if alarm.series in self.series]
        return self.series[named[-1]] if named else next(iter(self.series.values()))
