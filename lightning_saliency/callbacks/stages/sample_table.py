"""The samples one by one: a table in TensorBoard's text, and a histogram."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_saliency.callbacks.explanation import DriftResult, Explanation, ExplanationRound
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.stage_runner import Stage
from lightning_saliency.metrics.map_similarity import MEASURES, RANKING
from lightning_saliency.metrics.object_measures import OBJECT_MEASURES

# A longer table is not read; the samples that moved most come first.
_MOST_ROWS = 20


class SampleTableStage(Stage):
    """Writes for each series a table of its samples, and histograms of their overlaps.

    Args:
        class_name: from a class index to what is shown.
    """

    name: ClassVar[str] = "sample table"

    def __init__(self, class_name: Callable[[int], str]) -> None:
        self._class_name = class_name

    @override
    def is_due(self, context: RunContext, round: ExplanationRound) -> bool:
        return round.is_measured

    @override
    def run(self, context: RunContext, round: ExplanationRound) -> None:
        context.require(lambda: self._log(context, round))

    def _log(self, context: RunContext, round: ExplanationRound) -> None:
        if not context.is_rank_zero:
            return
        for name, drift in round.drift.items():
            tag = f"{round.series[name].prefix}saliency_drift_samples/{name}"
            explanation, located = round.explanations[name], round.located[name]
            table = sample_table(explanation, drift, located, self._class_name)
            for adapter in context.adapters():
                adapter.text(tag, table, round.step)
                for reference in ("previous", "pinned"):
                    overlaps = drift.samples[f"{reference}/{RANKING.name}"]
                    adapter.histogram(f"{tag}/{reference}/{RANKING.name}", overlaps, round.step)


def sample_table(
    explanation: Explanation,
    moved: DriftResult,
    located: Mapping[str, Tensor],
    class_name: Callable[[int], str],
) -> str:
    """Return a table in Markdown, one row for each sample, those that moved most first.

    Args:
        explanation: of the samples.
        moved: how far each has moved.
        located: what each map lies on, by the name of the number, (N,) each.
        class_name: from a class index to what is shown.
    """
    amounts = RANKING.amount(moved.samples[f"previous/{RANKING.name}"])
    # Maps that could not be compared come last.
    order = amounts.nan_to_num(-1.0).argsort(descending=True, stable=True).tolist()
    columns = [measure.column("previous") for measure in MEASURES.values()]
    columns.append(RANKING.column("pinned"))
    what = ("class", "probability") if explanation.score is None else ("explained", "score")
    rows = [["sample", *what, "predicted", *columns, *map(_shown_name, located)]]
    for i in order[:_MOST_ROWS]:
        answer = int(explanation.predicted[i])
        predicted = class_name(answer) if answer >= 0 else "no class"
        values = [moved.samples[f"previous/{measure}"][i] for measure in MEASURES]
        values += [
            moved.samples[f"pinned/{RANKING.name}"][i],
            *(each[i] for each in located.values()),
        ]
        rows.append(
            [
                str(i),
                explanation.explained(i, class_name),
                f"{float(explanation.sureness[i]):.3f}",
                f"**{predicted}** (flipped)" if bool(moved.flipped["previous"][i]) else predicted,
                *(_number(float(value)) for value in values),
            ]
        )
    left_out = len(order) - _MOST_ROWS
    note = f"\n\nAnd {left_out} more, which moved less." if left_out > 0 else ""
    return _markdown(rows) + note


def _shown_name(name: str) -> str:
    kind, _, measure = name.partition("/")
    return OBJECT_MEASURES[measure].column() if kind == "object" else f"share in {measure}"


def _number(value: float) -> str:
    return f"{value:.3f}" if value == value else "none"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
