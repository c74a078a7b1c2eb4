"""The charts of a report as SVG: loss beside drift, over the epochs."""

import math
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from itertools import cycle
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from lightning_saliency.reporting.record import Curve, RunRecord

# Told apart by their dashes too, where there are no colors.
_COLORS = ("#1A1A1A", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#8C6D00")
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
_BLUE, _GRAY, _CRIMSON = "#0072B2", "#777777", "#BE0032"
# More points than pixels are not seen.
_MOST_POINTS = 400
# Names beside the lines need room; more of them are in a legend.
_MOST_NAMES = 4
_STYLE: Any = {
    "svg.fonttype": "none",
    # Equal pages of equal runs.
    "svg.hashsalt": "lightning_saliency",
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}
_NOTHING: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def loss_and_drift(record: RunRecord) -> str:
    """Draw the losses and the movement of all series, with the alarms, as an SVG element.

    Args:
        record: of the run.
    """
    with rc_context(_STYLE):
        # Without pyplot: no window, no global state.
        figure = Figure(figsize=(8.8, 2.7), layout="constrained")
        panes: Any = figure.subplots(1, 2 if record.loss else 1, squeeze=False)[0]
        if record.loss:
            _draw_losses(panes[0], record.loss)
        _draw_drift(panes[-1], record)
        for axes in panes:
            _finish(axes, record)
        return as_svg(figure)


def as_svg(figure: Figure) -> str:
    """Return a figure as an element of an HTML page.

    Args:
        figure: of matplotlib.
    """
    file = StringIO()
    with rc_context(_STYLE):
        figure.savefig(file, format="svg", metadata=_NOTHING)
    text = file.getvalue()
    # Of the XML document only the element is wanted; in HTML it needs no names of namespaces.
    return re.sub(r' xmlns(:xlink)?="[^"]*"', "", text[text.index("<svg") :], count=2)


def _draw_losses(axes: Any, curves: Sequence[Curve]) -> None:
    ends = []
    for curve in curves:
        color, dash = (_BLUE, "--") if "val" in curve.name.lower() else (_GRAY, "-")
        steps, values = _thinned(curve)
        axes.plot(steps, values, color=color, linestyle=dash, linewidth=1.6)
        ends.append((steps[-1], values[-1], curve.name, color))
    axes.set_title("loss", loc="left", fontweight="bold")
    low, high = axes.get_ylim()
    # Zero where it is near: a loss that hardly falls would look like none at all.
    if 0 < low < high / 2:
        axes.set_ylim(bottom=0)
    _name(axes, ends)


def _draw_drift(axes: Any, record: RunRecord) -> None:
    ends = []
    looks = zip(cycle(_COLORS), cycle(_DASHES), strict=False)
    for (name, series), (color, dash) in zip(record.series.items(), looks, strict=False):
        drift = series.drift.tolist()
        known = [(s, v) for s, v in zip(series.steps, drift, strict=True) if math.isfinite(v)]
        if known:
            steps, values = zip(*known, strict=True)
            mark = "." if len(known) <= 40 else ""
            wide = 2.4 if name == record.lead.name else 1.3
            axes.plot(
                steps, values, color=color, linestyle=dash, linewidth=wide, marker=mark, label=name
            )
            ends.append((steps[-1], values[-1], name, color))
    axes.set(ylim=(0, 1))
    axes.set_title("moved since the explanation before (0 to 1)", loc="left", fontweight="bold")
    if len(ends) <= _MOST_NAMES:
        _name(axes, ends)
    else:
        axes.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _name(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the names at the ends of the lines, apart from each other."""
    low, high = axes.get_ylim()
    least = (high - low) * 0.085
    place = -math.inf
    for step, value, name, color in sorted(ends, key=lambda end: end[1]):
        place = max(value, place + least)
        axes.annotate(
            _short(name),
            (step, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=color,
            annotation_clip=False,
        )


def _finish(axes: Any, record: RunRecord) -> None:
    lead = record.lead
    steps, epochs = list(lead.steps), list(lead.epochs)
    chosen = range(0, len(steps), max(1, math.ceil(len(steps) / 10)))
    axes.set_xticks([steps[at] for at in chosen], [str(epochs[at]) for at in chosen])
    axes.set_xlabel("epoch")
    axes.margins(x=0.02)
    for number, step in enumerate(sorted({alarm.step for alarm in record.alarms})):
        axes.axvline(step, color=_CRIMSON, linewidth=1.4)
        if number == 0:
            axes.annotate(
                "\N{BLACK UP-POINTING TRIANGLE} alarm",
                (step, axes.get_ylim()[1]),
                xytext=(3, -9),
                textcoords="offset points",
                color=_CRIMSON,
                fontsize=7.5,
            )


def _thinned(curve: Curve) -> tuple[list[int], list[float]]:
    """Return at most so many points, each the mean of those that it stands for."""
    size = math.ceil(len(curve.steps) / _MOST_POINTS)
    parts = list(_parts(curve, size))
    return [steps[-1] for steps, _ in parts], [sum(v) / len(v) for _, v in parts]


def _parts(curve: Curve, size: int) -> Iterator[tuple[Sequence[int], Sequence[float]]]:
    for start in range(0, len(curve.steps), size):
        yield curve.steps[start : start + size], curve.values[start : start + size]


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:12]}…{name[-13:]}"
