"""The table of the pointing game as a picture."""

import math
from textwrap import fill

from matplotlib.figure import Figure

from lightning_saliency.benchmark.pointing_report import PointingReport

_ALL, _DIFFICULT, _INK = "#3b6ea5", "#e0a03c", "#222222"
_SHORT = 7  # per cent
_HEIGHT = 0.38  # of a bar, of the distance between methods
_ROW = 0.275  # inches, for a bar


def pointing_figure(report: PointingReport) -> Figure:
    """Draw two bars for each method, and marks where the published figures are.

    Where every object is in the difficult subset, there is one bar.

    Args:
        report: the scores.

    Returns:
        A figure that needs no screen; ``figure.savefig(path)`` writes it.
    """
    rows = report.scores
    is_alone = not report.published and all(row.difficult == row.accuracy for row in rows)
    pitch = _ROW if is_alone else 2 * _ROW
    figure = Figure(figsize=(7.5, 2.2 + pitch * len(rows)), layout="constrained")
    axes = figure.subplots()
    for offset, color, name in (
        (-_HEIGHT / 2, _ALL, "accuracy"),
        (_HEIGHT / 2, _DIFFICULT, "difficult"),
    ):
        shares = [100 * getattr(row, name) for row in rows]
        if all(map(math.isnan, shares)) or (is_alone and name == "difficult"):
            continue
        places = [i + (0 if is_alone else offset) for i in range(len(rows))]
        axes.barh(
            places,
            [0 if math.isnan(share) else share for share in shares],
            2 * _HEIGHT if is_alone else _HEIGHT,
            color=color,
            label="all objects" if name == "accuracy" else "difficult subset",
        )
        for place, share in zip(places, shares, strict=True):
            # At the foot of the bar, away from the marks; in a short bar it would not be read.
            text = "-" if math.isnan(share) else f"{share:.1f}"
            ink = "white" if share > _SHORT and name == "accuracy" else _INK
            foot = 1.0 if share > _SHORT or math.isnan(share) else share + 1
            axes.text(foot, place, text, va="center", fontsize=8, color=ink)
        which = 0 if name == "accuracy" else 1
        marks = [
            (report.published[row.method][which], place)
            for row, place in zip(rows, places, strict=True)
            if row.method in report.published
        ]
        if marks:
            axes.plot(
                *zip(*marks, strict=True),
                "D",
                color="white",
                markeredgecolor=_INK,
                markersize=5,
                label="published" if which == 0 else None,
            )
    axes.set_yticks(range(len(rows)), [row.method.replace("_", " ") for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("pointing accuracy in percent, mean over the classes")
    # In files of results, data sets keep the names that they had first.
    data = report.data.replace("centre", "center")
    axes.set_title(f"Pointing game, {data}, {report.model}", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if not is_alone:
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(0, -1 / len(rows)),
            ncols=3,
            frameon=False,
            fontsize=9,
        )
    if report.published:
        source = next(note for note in report.notes() if note.startswith("published"))
        figure.supxlabel(fill(source, 120), fontsize=6.5, color="#666666")
    return figure
