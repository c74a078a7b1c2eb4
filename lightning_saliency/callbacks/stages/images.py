"""The pictures of a run: panels, side-by-side panels, filmstrips; one color scale for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_saliency.callbacks.explanation import Explanation, ExplanationRound
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.samples.sample_set import SampleSet
from lightning_saliency.callbacks.stage_runner import Stage
from lightning_saliency.errors import InputError
from lightning_saliency.image.saliency_map import degenerate
from lightning_saliency.metrics.map_statistics import canonical
from lightning_saliency.rendering import (
    ColorScale,
    Frame,
    Heatmap,
    color_scale,
    compare_panel,
    displayable,
    film_frame,
    filmstrip,
    heatmap,
    mask_rows,
    overlay,
    panel,
    select_frames,
    timelapse,
    to_bytes,
)
from lightning_saliency.rendering.panel import Cell
from lightning_saliency.rendering.pixels import resized

# Side of the pictures that show a few samples at a few times.
_LARGE = 160
# Colours are rounded to so many values. Nobody sees it, and files that cannot keep the last two
# bits of an image's noise are a sixth smaller.
_STEPS = 64


@dataclass
class _Strip:
    """What a filmstrip needs of one series; the epochs that it has thinned out are gone.

    Attributes:
        scale: settled with the first maps that show anything.
        signed: whether these had negative values.
        count: explanations so far.
        frames: by the number of the explanation, its small pictures.
        epochs: by the number of the explanation, its epoch.
    """

    scale: ColorScale | None = None
    signed: bool = False
    count: int = 0
    frames: dict[int, Frame] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)

    def paint(self, saliency: Tensor) -> Heatmap:
        """Paint maps (N, 1, H, W), with the scale of the first that showed anything."""
        if self.scale is None:
            self.scale = color_scale(saliency)
            if self.scale is not None:
                self.signed = bool((saliency[~degenerate(saliency)] < 0).any())
        return heatmap(saliency, self.scale or ColorScale(), self.signed)

    def add(self, frame: Frame, epoch: int) -> None:
        """Add an explanation, and forget the frames that the strip does not show any more."""
        self.frames[self.count], self.epochs[self.count] = frame, epoch
        self.count += 1
        shown = select_frames(self.count)
        self.frames = {index: self.frames[index] for index in shown}
        self.epochs = {index: self.epochs[index] for index in shown}


class Pictures:
    """Draws explanations, and keeps what the later ones must share with the earlier.

    Args:
        mean: per channel, how the images were normalised; None if they are in [0, 1] or unknown.
        std: like ``mean``.
        class_names: shown instead of class indices.

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
        self._strips: dict[str, _Strip] = {}
        # What draws them: the pictures themselves are large, and seldom asked for.
        self._last_strip: dict[str, Callable[[], Tensor]] = {}

    def show(self, images: Tensor) -> Tensor:
        """Return the model's images as RGB, (N, 3, H, W) in [0, 1], on the CPU.

        Args:
            images: (N, C, H, W), as the model takes them.

        Raises:
            InputError: ``mean`` or ``std`` does not fit the channels.
        """
        return displayable(images, self.mean, self.std)

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
            strip = self._strips.setdefault(series, _Strip())
            heat = strip.paint(explanation.saliency)
            # As bytes once for all the pictures that they stand in.
            heats[series] = heat.as_bytes(_STEPS)
            overlays[series] = to_bytes(overlay(shown, heat), _STEPS)
            for index in range(len(shown)):
                caption = self._caption(explanation, index, epoch)
                one, laid = heats[series][index], overlays[series][index]
                more = self._masks(explanation, shown[index], index)
                picture = panel(inputs[index], one, laid, caption, series, more)
                yield f"saliency/{series}/sample_{index}", picture
            strip.add(film_frame(overlays[series], heat), epoch)
            self._last_strip[series] = self._strip_of(series, inputs, explanation)
            yield f"saliency_filmstrip/{series}", self._last_strip[series]()
        if len(explanations) > 1:
            first = next(iter(explanations.values()))
            for index in range(len(shown)):
                yield (
                    f"saliency/compare/sample_{index}",
                    compare_panel(
                        inputs[index],
                        {series: heat[index] for series, heat in heats.items()},
                        {series: laid[index] for series, laid in overlays.items()},
                        self._caption(first, index, epoch),
                    ),
                )

    def at_times(
        self,
        series: str,
        images: Tensor,
        maps: Sequence[tuple[str, Tensor]],
        rows: Sequence[str],
        title: str,
    ) -> Tensor:
        """Draw samples at a few times, in the colors of the run.

        Args:
            series: for instance ``"grad_cam"``.
            images: (N, C, H, W), as the model takes them.
            maps: what is written above a column, and its maps (N, 1, h, w), of any size.
            rows: written beside each sample.
            title: written above all.

        Returns:
            (3, height, width), RGB, uint8.
        """
        shown = self.show(images)
        strip = self._strips.get(series, _Strip())
        scale = strip.scale or ColorScale()
        heats = [heatmap(canonical(each), scale, strip.signed) for _, each in maps]
        frames = [film_frame(overlay(shown, heat), heat, side=_LARGE) for heat in heats]
        columns = [label for label, _ in maps]
        legend = (scale, strip.signed)
        return filmstrip(frames, rows, columns, to_bytes(shown), title, legend)

    def films(self) -> Iterator[tuple[str, bytes]]:
        """Yield each series with its history as an animated GIF."""
        for series, strip in self._strips.items():
            labels = [f"epoch {epoch}" for epoch in strip.epochs.values()]
            yield series, timelapse(list(strip.frames.values()), labels, f"{series},")

    def filmstrip(self, series: str | None = None) -> Tensor:
        """Draw a filmstrip as it was drawn last, (3, height, width), RGB, uint8.

        Args:
            series: for instance ``"grad_cam"``; None for the first one.

        Raises:
            InputError: there is none of that name.
        """
        if series is None and self._last_strip:
            series = next(iter(self._last_strip))
        if series not in self._last_strip:
            have = ", ".join(f"'{name}'" for name in self._last_strip) or "none yet"
            raise InputError(f"Expected the name of a filmstrip ({have}), got {series!r}.")
        return self._last_strip[series]()

    def state_dict(self) -> dict[str, Any]:
        """Return the color scales and the filmstrips for a checkpoint."""
        return {
            series: {
                "scale": None if strip.scale is None else asdict(strip.scale),
                "signed": strip.signed,
                "count": strip.count,
                "frames": {index: asdict(frame) for index, frame in strip.frames.items()},
                "epochs": dict(strip.epochs),
            }
            for series, strip in self._strips.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the color scales and filmstrips of a checkpoint.

        Args:
            state: from :meth:`state_dict`.

        Raises:
            Exception: there is something else in it. Nothing has changed then.
        """
        strips: dict[str, _Strip] = {}
        for series, entry in state.items():
            scale = None if entry["scale"] is None else ColorScale(**entry["scale"])
            frames = {index: Frame(**frame) for index, frame in entry["frames"].items()}
            strips[series] = _Strip(**{**entry, "scale": scale, "frames": frames})
            if frames.keys() != strips[series].epochs.keys():
                raise ValueError(f"frames of '{series}'")
        self._strips = strips

    def class_name(self, index: int) -> str:
        """Return what is shown for a class."""
        if self.class_names is None or index >= len(self.class_names):
            return f"class {index}"
        return self.class_names[index]

    def _caption(self, explanation: Explanation, index: int, epoch: int) -> list[str]:
        target, predicted = int(explanation.target[index]), int(explanation.predicted[index])
        if explanation.score is not None:
            return [f"epoch {epoch}: {explanation.score_name} ({explanation.score[index]:.3g})"]
        probability = float(explanation.probability[index])
        verdict = "predicted" if target == predicted else f"predicted: {self.class_name(predicted)}"
        return [f"epoch {epoch}: {self.class_name(target)} ({probability:.2f}), {verdict}"]

    def _masks(self, explanation: Explanation, image: Tensor, index: int) -> list[list[Cell]]:
        extras = explanation.extras
        shown = None if extras is None else extras.mask_panel(index)
        return [] if shown is None else mask_rows(image, *shown)

    def _strip_of(
        self, series: str, shown: Tensor, explanation: Explanation
    ) -> Callable[[], Tensor]:
        strip = self._strips[series]
        count = len(explanation.target)
        rows = [f"{i}: {explanation.explained(i, self.class_name)}" for i in range(count)]
        columns = [str(epoch) for epoch in strip.epochs.values()]
        title = f"{series}, by epoch"
        legend = (strip.scale or ColorScale(), strip.signed)
        frames = list(strip.frames.values())
        # As small as the frames: this is kept.
        size = frames[0].pictures.shape[2], frames[0].pictures.shape[3]
        return partial(filmstrip, frames, rows, columns, resized(shown, size), title, legend)


class ImagesStage(Stage):
    """Draws panels, side-by-side panels and filmstrips, on rank zero alone.

    Args:
        pictures: draws in the colors of the run.
        prefix: stands before all tags.
    """

    name: ClassVar[str] = "pictures"

    def __init__(self, pictures: Pictures, prefix: str) -> None:
        self._pictures = pictures
        self._prefix = prefix

    @override
    def prepare(self, context: RunContext, probe: SampleSet) -> None:
        self._pictures.show(probe.images)

    @override
    def is_due(self, context: RunContext, round: ExplanationRound) -> bool:
        return bool(round.explanations)

    @override
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        context.require(lambda: self._log(context, round))

    def _log(self, context: RunContext, round: ExplanationRound) -> None:
        working = [adapter for adapter in context.adapters() if adapter.takes_images]
        if not working or not context.is_rank_zero:
            return
        drawn = self._pictures.draw(round.samples.images, round.explanations, round.epoch)
        failures: list[Exception] = []
        # What waits to be written may be the run's own, and must not be lost with ours.
        for adapter in working:
            adapter.flush()
        # All are drawn, also when every logger has failed: the filmstrips remember them.
        for tag, picture in drawn:
            # Filmstrips are large, and written again each time.
            palette = "saliency_filmstrip/" in tag
            for adapter in list(working):
                try:
                    adapter.image(self._prefix + tag, picture, round.step, palette=palette)
                except Exception as error:
                    failures.append(error)
                    working.remove(adapter)
        for adapter in working:
            adapter.flush()
        if failures:
            raise failures[0]
