"""Draws the pictures of a run, and keeps what the later ones share with the earlier."""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.callbacks.explanation import Explanation, Reference
from lightning_saliency.callbacks.failures import warn
from lightning_saliency.callbacks.strip import Kept, Strip
from lightning_saliency.errors import InputError
from lightning_saliency.metrics.map_similarity import top10
from lightning_saliency.metrics.map_statistics import canonical
from lightning_saliency.metrics.movement import movement
from lightning_saliency.rendering import (
    ColorScale,
    Column,
    Curves,
    Frame,
    Heatmap,
    MovedRow,
    displayable,
    film_frame,
    filmstrip,
    heatmap,
    mask_rows,
    methods_picture,
    moved_card,
    overlay,
    panel,
    timelapse,
    to_bytes,
)
from lightning_saliency.rendering.class_names import class_name
from lightning_saliency.rendering.panel import Cell
from lightning_saliency.rendering.pixels import fit_cell, png_of, resized

# Of fewer no curve can be drawn.
_FEWEST_POINTS = 2
# Rows of a filmstrip, and samples of a picture of before and after.
_MOST_ROWS, _MOST_MOVED = 8, 3
# Side of the inputs that are kept for a filmstrip that is drawn again.
_SMALL = 128
# Colors are rounded to so many values. Nobody sees it, and files that do not keep an image's
# finest noise are a third smaller.
_STEPS = 40
# How far images that were normalized otherwise are beyond their range, as a share of it, and how
# small a part of it those fill that were normalized on another scale.
_BEYOND, _NARROWEST = 0.25, 0.02


@dataclass(frozen=True)
class _Shown:
    """What a filmstrip shows beside the maps.

    Attributes:
        inputs: (N, 3, h, w), uint8, small.
        explanation: of which the classes are shown.
        labels: (N,), the right classes; None where they are not known.
    """

    inputs: Tensor
    explanation: Explanation
    labels: Tensor | None


class Pictures:
    """Draws explanations, and keeps what the later ones must share with the earlier.

    Args:
        mean: per channel, how the images were normalized; None if they are in [0, 1] or unknown.
        std: like ``mean``.
        class_names: shown instead of class indices.

    Attributes:
        when_zero: by series, what it means that a map is zero everywhere, if that is known.

    Raises:
        InputError: only one of ``mean`` and ``std`` is given.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if (mean is None) != (std is None):
            raise InputError("Expected both mean and std, or neither, got only one of them.")
        self.mean, self.std = mean, std
        self.class_names = class_names
        self._strips: dict[str, Strip] = {}
        self._shown: dict[str, _Shown] = {}
        self.when_zero: dict[str, str] = {}

    def show(self, images: Tensor) -> Tensor:
        """Return the model's images as RGB, (N, 3, H, W) in [0, 1], on the CPU.

        Args:
            images: (N, C, H, W), as the model takes them.

        Raises:
            InputError: ``mean`` or ``std`` does not fit the channels.
        """
        return displayable(images, self.mean, self.std)

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of all classes; None if there are none."""
        return None if self.class_names is None else tuple(map(str, self.class_names))

    def check_classes(self, count: int | None) -> None:
        """Check that there is a name for each class.

        Args:
            count: how many classes the model has; None if it is not known.

        Raises:
            InputError: there are more names, or fewer.
        """
        names = self.class_names
        if names is not None and count is not None and len(names) != count:
            raise InputError(
                f"Expected class_names to hold a name for each of the model's {count} classes, in "
                f"the order of its outputs, got {len(names)}."
            )

    def check_colors(self, images: Tensor) -> None:
        """Warn if ``mean`` and ``std`` are not those with which the images were normalized.

        Args:
            images: (N, C, H, W), as the model takes them.
        """
        if self.mean is None or self.std is None:
            return
        each = (torch.as_tensor(v, dtype=torch.float32).flatten() for v in (self.mean, self.std))
        mean, std = (one.view(1, -1, 1, 1) for one in each)
        shown = images.detach().float().cpu() * std + mean
        full = 255.0 if float(mean.max()) > 1 else 1.0
        low, high = float(shown.min()) / full, float(shown.max()) / full
        # Of a single picture of one color the range says nothing.
        narrow = high - low < _NARROWEST and float(images.std()) > _NARROWEST
        if low < -_BEYOND or high > 1 + _BEYOND or narrow:
            warn(
                f"With mean={list(self.mean)} and std={list(self.std)} the images have values from "
                f"{low * full:.3g} to {high * full:.3g}, not from 0 to {full:.0f}: their colors in "
                "the pictures will be wrong. Give mean and std as they were used to normalize "
                "the images, both for images of 0 to 1 or both for images of 0 to 255."
            )

    def draw(
        self, images: Tensor, explanations: Mapping[str, Explanation], epoch: int
    ) -> Iterator[tuple[str, Tensor]]:
        """Draw one explanation of all samples by all methods.

        Args:
            images: (N, C, H, W), as the model takes them.
            explanations: by series, such as ``"grad_cam"`` or ``"grad_cam/predicted"``.
            epoch: written into the pictures.

        Yields:
            (tag, RGB picture (3, height, width), uint8).
        """
        shown = self.show(images)
        inputs = to_bytes(shown, _STEPS)
        heats: dict[str, Heatmap] = {}
        overlays: dict[str, Tensor] = {}
        for series, explanation in explanations.items():
            heat = self.strip(series).paint(explanation.saliency)
            # As bytes once for all the pictures that they stand in.
            heats[series] = heat.as_bytes(_STEPS)
            overlays[series] = to_bytes(overlay(shown, heat), _STEPS)
            for index in range(len(shown)):
                caption = self._caption(explanation, index, epoch)
                if heat.fault[index] == "zero" and self.when_zero.get(series):
                    caption.append(f"zero: {self.when_zero[series]}")
                one, laid = heats[series][index], overlays[series][index]
                more = self._masks(explanation, shown[index], index)
                picture = panel(inputs[index], one, laid, caption, series, more)
                yield f"saliency/samples/{series}/{index}", picture
        if len(explanations) > 1:
            rows = self._row_labels(next(iter(explanations.values())))
            title = f"methods, epoch {epoch}"
            yield "saliency/methods", methods_picture(inputs, heats, overlays, rows, title)

    def record(
        self,
        series: str,
        images: Tensor,
        explanation: Explanation,
        epoch: int,
        moved: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        """Add an explanation to the filmstrip of a series.

        Args:
            series: for instance ``"grad_cam"``.
            images: (N, C, H, W), as the model takes them.
            explanation: of them.
            epoch: of the run.
            moved: (N,), how far each map has moved since the one before; None for the first.
            labels: (N,), the right classes; None if they are not known.
        """
        strip = self.strip(series)
        if strip.scale is None:
            strip.paint(explanation.saliency)
        strip.add(Kept.of(canonical(explanation.saliency), explanation.predicted, epoch), moved)
        shown = self.show(images)
        size = fit_cell((shown.shape[2], shown.shape[3]), 1, _SMALL)
        inputs = resized(shown, size)
        self._shown[series] = _Shown(
            inputs, replace(explanation, saliency=inputs, extras=None), labels
        )

    def mark_alarm(self, series: str) -> None:
        """An alarm sounded at the newest explanation of a series."""
        self.strip(series).mark_alarm()

    def set_loss(self, loss: float, name: str) -> None:
        """Note the validation loss at the newest explanation."""
        for strip in self._strips.values():
            strip.set_loss(loss, name)

    def strip(self, series: str) -> Strip:
        """Return what is kept of a series; it is made if it is not there."""
        return self._strips.setdefault(series, Strip())

    def inputs(self, series: str) -> Tensor | None:
        """Return the samples of a series, (N, 3, h, w), uint8, small; None before the first."""
        return self._shown[series].inputs if series in self._shown else None

    def newest(self, series: str) -> int | None:
        """Return the epoch of the newest explanation in a filmstrip; None if there is none."""
        strip = self._strips.get(series)
        return None if strip is None or not strip.kept else strip.kept[strip.count - 1].epoch

    def before_and_after(
        self,
        series: str,
        images: Tensor,
        before: Reference,
        now: Reference,
        amounts: Tensor,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Draw the samples that moved most, with what they were and are taken for.

        Args:
            series: for instance ``"grad_cam"``.
            images: (N, C, H, W), as the model takes them.
            before: the explanation before.
            now: the explanation now.
            amounts: (N,), how far each sample has moved, NaN where that is not known.
            labels: (N,), the right classes; None if they are not known.

        Returns:
            (3, height, width), RGB, uint8.
        """
        order = amounts.nan_to_num(-1.0).argsort(descending=True, stable=True)
        chosen: list[int] = order[:_MOST_MOVED].tolist()
        shown = self.show(images[chosen])
        strip = self.strip(series)
        scale = strip.scale or ColorScale()
        times = (before, now)
        heats = [heatmap(each.maps[chosen], scale, strip.signed) for each in times]
        laid = [overlay(shown, heat) for heat in heats]
        # The part of the tenth that drift compares which is evidence at all.
        tenths = [top10(each.maps[chosen]) & (each.maps[chosen] > 0) for each in times]
        rows = []
        for row, index in enumerate(chosen):
            predicted = [int(each.predicted[index]) for each in times]
            known = None if labels is None else int(labels[index])
            rows.append(
                MovedRow(
                    pictures=[shown[row], laid[0][row], laid[1][row]],
                    fault=[heat.fault[row] for heat in heats],
                    outlines=[tenth[row, 0] for tenth in tenths],
                    label=self.class_name(int(now.target[index])),
                    number=index,
                    predicted=[self.class_name(each) for each in predicted],
                    right=[None if known is None else each == known for each in predicted],
                    probability=[float(each.probability[index]) for each in times],
                    moved=float(amounts[index]),
                )
            )
        title = f"{series}: what moved"
        return moved_card(rows, f"epoch {before.epoch}", f"epoch {now.epoch}", title)

    def of_maps(
        self, series: str, images: Tensor, maps: Tensor, target: Tensor, head: str
    ) -> Tensor:
        """Draw all samples with maps of one time.

        Args:
            series: for instance ``"grad_cam"``.
            images: (N, C, H, W), as the model takes them.
            maps: (N, 1, h, w), of any size.
            target: (N,), the explained classes.
            head: written above the maps.

        Returns:
            (3, height, width), RGB, uint8.
        """
        shown = self.show(images)
        strip = self.strip(series)
        heat = heatmap(maps, strip.scale or ColorScale(), strip.signed)
        laid = to_bytes(overlay(shown, heat), _STEPS)
        rows = [f"{i}: {self.class_name(int(each))}" for i, each in enumerate(target)]
        heats, overlays = {head: heat}, {head: laid}
        return methods_picture(to_bytes(shown, _STEPS), heats, overlays, rows, f"{series}, pinned")

    def films(self) -> Iterator[tuple[str, bytes]]:
        """Yield each series with its history as an animated GIF."""
        for series, strip in self._strips.items():
            if series not in self._shown:
                continue
            frames = [self._frame(series, kept) for kept in strip.kept.values()]
            labels = [f"epoch {kept.epoch}" for kept in strip.kept.values()]
            yield series, timelapse(frames, labels, f"{series},")

    def filmstrip(self, series: str | None = None) -> Tensor:
        """Draw the filmstrip, (3, height, width), RGB, uint8.

        Args:
            series: for instance ``"grad_cam"``; None for the first one.

        Raises:
            InputError: there is none of that name.
        """
        if series is None and self._shown:
            series = next(iter(self._shown))
        if series not in self._shown:
            have = ", ".join(f"'{name}'" for name in self._shown) or "none yet"
            raise InputError(f"Expected the name of a filmstrip ({have}), got {series!r}.")
        strip, shown = self._strips[series], self._shown[series]
        rows = strip.most_moved(_MOST_ROWS)
        columns = [strip.kept[number] for number in strip.shown]
        scale = strip.scale or ColorScale()
        drawn = []
        previous: Kept | None = None
        for number, kept in zip(strip.shown, columns, strict=True):
            drawn.append(self._column(series, rows, kept, previous, number in strip.alarms))
            previous = kept
        count = len(shown.inputs)
        note = f"{count} samples" if count <= _MOST_ROWS else f"the 8 of {count} that moved most"
        if self.when_zero.get(series) and any("zero" in column.fault for column in drawn):
            note += f"; zero: {self.when_zero[series]}"
        named = shown.explanation.target if shown.labels is None else shown.labels
        curves: Curves | None = Curves(
            strip.places(),
            [point.moved for point in strip.points],
            [point.loss for point in strip.points],
            strip.loss_name,
        )
        if len(strip.points) < _FEWEST_POINTS:
            curves = None
        return filmstrip(
            shown.inputs[rows],
            drawn,
            [shown.explanation.score_name or self.class_name(int(named[row])) for row in rows],
            rows,
            series,
            note,
            curves,
            (scale, strip.signed),
        )

    def as_html(self) -> str:
        """Return all filmstrips as HTML; empty if there are none."""
        sources = []
        for series in self._shown:
            file = base64.b64encode(png_of(self.filmstrip(series))).decode()
            sources.append(f'<img alt="{escape(series)}" src="data:image/png;base64,{file}">')
        return "\n".join(sources)

    def state_dict(self) -> dict[str, Any]:
        """Return the filmstrips for a checkpoint."""
        return {series: strip.state_dict() for series, strip in self._strips.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the filmstrips of a checkpoint.

        Args:
            state: from :meth:`state_dict`.

        Raises:
            Exception: there is something else in it. Nothing has changed then.
        """
        self._strips = {series: Strip.of_state(entry) for series, entry in state.items()}
        self._shown = {}

    def class_name(self, index: int) -> str:
        """Return what is shown for a class."""
        return class_name(index, self.class_names)

    def _caption(self, explanation: Explanation, index: int, epoch: int) -> list[str]:
        target, predicted = int(explanation.target[index]), int(explanation.predicted[index])
        if explanation.score is not None:
            return [f"epoch {epoch}: {explanation.score_name} ({explanation.score[index]:.3g})"]
        probability = float(explanation.probability[index])
        verdict = "predicted" if target == predicted else f"predicted: {self.class_name(predicted)}"
        return [f"epoch {epoch}: {self.class_name(target)} ({probability:.2f}), {verdict}"]

    def _row_labels(self, explanation: Explanation) -> list[str]:
        count = len(explanation.target)
        return [f"{i}: {explanation.explained(i, self.class_name)}" for i in range(count)]

    def _masks(self, explanation: Explanation, image: Tensor, index: int) -> list[list[Cell]]:
        extras = explanation.extras
        shown = None if extras is None else extras.mask_panel(index)
        return [] if shown is None else mask_rows(image, *shown)

    def _frame(self, series: str, kept: Kept) -> Frame:
        strip = self._strips[series]
        heat = heatmap(kept.maps, strip.scale or ColorScale(), strip.signed)
        return film_frame(overlay(self._shown[series].inputs.float() / 255, heat), heat)

    def _column(
        self, series: str, rows: list[int], kept: Kept, previous: Kept | None, alarm: bool
    ) -> Column:
        shown = self._shown[series]
        inputs = shown.inputs[rows].float() / 255
        strip = self._strips[series]
        maps = kept.maps[rows]
        heat = heatmap(maps, strip.scale or ColorScale(), strip.signed)
        predicted = kept.predicted[rows]
        moved = torch.full((len(rows),), math.nan)
        flipped = torch.zeros(len(rows), dtype=torch.bool)
        if previous is not None:
            moved = movement(previous.maps[rows], maps)
            flipped = predicted != previous.predicted[rows]
        wrong = torch.zeros(len(rows), dtype=torch.bool)
        if shown.labels is not None:
            wrong = (predicted != shown.labels[rows]) & (predicted >= 0)
        return Column(
            label=str(kept.epoch),
            pictures=to_bytes(overlay(inputs, heat)),
            fault=heat.fault,
            moved=moved.tolist(),
            wrong=wrong.tolist(),
            flipped=flipped.tolist(),
            alarm=alarm,
        )
