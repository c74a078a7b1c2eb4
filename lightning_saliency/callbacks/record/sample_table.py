"""The samples one by one: a table in TensorBoard's text, and a histogram."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_saliency.callbacks.explanation.explain import Explanation
from lightning_saliency.callbacks.measurement.drift import Moved
from lightning_saliency.loggers import log_histogram, log_text

__all__ = ["log_samples", "sample_table"]

# A longer table is not read; the samples that moved most come first.
_MOST_ROWS = 20
_SHOWN = ("top10_iou", "spearman", "ssim", "center_shift", "log2_norm_ratio")


def log_samples(
    trainer: pl.Trainer,
    tag: str,
    explanation: Explanation,
    moved: Moved,
    located: Mapping[str, Tensor],
    class_name: Callable[[int], str],
    step: int,
) -> None:
    """Write the table under ``tag``, and a histogram of the overlaps under a tag below it.

    Args:
        trainer: whose loggers write.
        tag: for instance ``"saliency_drift_samples/grad_cam"``.
        explanation: of the samples.
        moved: how far each has moved.
        located: what each map lies on, by the name of the number, (N,) each.
        class_name: from a class index to what is shown.
        step: at which they are logged.
    """
    table = sample_table(explanation, moved, located, class_name)
    for logger in trainer.loggers:
        log_text(logger, tag, table, step)
        for reference in ("previous", "pinned"):
            overlaps = moved.samples[f"{reference}/top10_iou"]
            log_histogram(logger, f"{tag}/{reference}/top10_iou", overlaps, step)


def sample_table(
    explanation: Explanation,
    moved: Moved,
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
    overlaps = moved.samples["previous/top10_iou"]
    # Maps that could not be compared come last.
    order = overlaps.nan_to_num(torch.inf).argsort(stable=True).tolist()
    columns = [f"{measure} to previous" for measure in _SHOWN] + ["top10_iou to pinned"]
    rows = [
        ["sample", "class", "probability", "predicted", *columns, *map(_shown_name, located)],
    ]
    for i in order[:_MOST_ROWS]:
        predicted = class_name(int(explanation.predicted[i]))
        values = [moved.samples[f"previous/{measure}"][i] for measure in _SHOWN]
        values += [moved.samples["pinned/top10_iou"][i], *(each[i] for each in located.values())]
        rows.append(
            [
                str(i),
                class_name(int(explanation.target[i])),
                f"{float(explanation.probability[i]):.3f}",
                f"**{predicted}** (flipped)" if bool(moved.flipped["previous"][i]) else predicted,
                *(_number(float(value)) for value in values),
            ]
        )
    left_out = len(order) - _MOST_ROWS
    note = f"\n\nAnd {left_out} more, which moved less." if left_out > 0 else ""
    return _markdown(rows) + note


def _shown_name(name: str) -> str:
    kind, _, measure = name.partition("/")
    return f"{measure} on object" if kind == "object" else f"share in {measure}"


def _number(value: float) -> str:
    return f"{value:.3f}" if value == value else "none"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
