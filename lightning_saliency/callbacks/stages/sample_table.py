"""The samples one by one: a table in TensorBoard's text, and a histogram."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_saliency.callbacks.explanation import DriftResult, Explanation, ExplanationRound
from lightning_saliency.callbacks.run_context import RunContext
from lightning_saliency.callbacks.stage_runner import Stage
from lightning_saliency.callbacks.tags import LogLevel
from lightning_saliency.metrics.map_similarity import RANKING

# A longer table is not read; the samples that moved most come first.
_MOST_ROWS = 20
# TensorBoard breaks headings between words.
_HEAD = ("#", "class", "predicted", "p", "moved", "from pinned")
_HEAD_OF_SCORES = ("#", "explained", "predicted", "score", "moved", "from pinned")
_NONE = "-"


class SampleTableStage(Stage):
    """Writes for each series a table of its samples, and histograms of how far they moved.

    Args:
        class_name: from a class index to what is shown.
        log: the histograms are logged with ``"full"``.
    """

    name: ClassVar[str] = "sample table"

    def __init__(self, class_name: Callable[[int], str], log: LogLevel = "basic") -> None:
        self._class_name = class_name
        self._log_level = log

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
            table = sample_table(round.explanations[name], drift, self._class_name)
            for adapter in context.adapters():
                adapter.text(tag, table, round.step)
                for reference in drift.references.others() if self._log_level == "full" else ():
                    adapter.histogram(f"{tag}/{reference}", moved(drift, reference), round.step)


def moved(drift: DriftResult, reference: str) -> Tensor:
    """Return how far each sample has moved, (N,); NaN where it was not or cannot be compared.

    Args:
        drift: of the samples.
        reference: ``"previous"`` or ``"pinned"``.
    """
    values = drift.samples.get(f"{reference}/{RANKING.name}")
    if values is None:
        return torch.full((len(drift.references.current.maps),), torch.nan)
    return RANKING.amount(values)


def sample_table(
    explanation: Explanation, drift: DriftResult, class_name: Callable[[int], str]
) -> str:
    """Return a table in Markdown, one row for each sample, those that moved most first.

    Args:
        explanation: of the samples.
        drift: how far each has moved.
        class_name: from a class index to what is shown.
    """
    amounts, from_pinned = moved(drift, "previous"), moved(drift, "pinned")
    # Maps that could not be compared come last.
    order = amounts.nan_to_num(-1.0).argsort(descending=True, stable=True).tolist()
    rows: list[Sequence[str]] = [_HEAD if explanation.score is None else _HEAD_OF_SCORES]
    for i in order[:_MOST_ROWS]:
        target, predicted = int(explanation.target[i]), int(explanation.predicted[i])
        verdict = "\N{CHECK MARK}" if predicted == target else "\N{BALLOT X}"
        rows.append(
            [
                str(i),
                explanation.explained(i, class_name),
                f"{class_name(predicted)} {verdict}" if target >= 0 else class_name(predicted),
                *(
                    _number(value)
                    for value in (explanation.sureness[i], amounts[i], from_pinned[i])
                ),
            ]
        )
    left_out = len(order) - _MOST_ROWS
    note = f"\n\nAnd {left_out} more, which moved less." if left_out > 0 else ""
    return _markdown(rows) + note


def _number(value: float | Tensor) -> str:
    number = float(value)
    return f"{number:.2f}" if number == number else _NONE


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
