"""Numbers, texts and histograms for a logger, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.loggers.defined import has_method

__all__ = ["log_histogram", "log_scalars", "log_text"]


def log_scalars(logger: object, values: Mapping[str, float | Tensor], step: int) -> bool:
    """Write numbers.

    Args:
        logger: any logger of Lightning, or None.
        values: number by tag; a tensor is a scalar (one element).
        step: the global step that they belong to.

    Returns:
        Whether the logger takes numbers; all of Lightning's do. If not, nothing was done.
    """
    if not has_method(logger, "log_metrics"):
        return False
    target: Any = logger
    target.log_metrics({tag: float(value) for tag, value in values.items()}, step=step)
    return True


def log_text(logger: object, tag: str, text: str, step: int) -> bool:
    """Write a text, Markdown where the logger renders it (TensorBoard).

    Args:
        logger: any logger of Lightning, or None.
        tag: for instance ``"saliency_alarm"``.
        text: one or more lines.
        step: the global step that it belongs to.

    Returns:
        Whether the logger takes texts (TensorBoard, Weights & Biases, Comet); if not, nothing was
        done.
    """
    if has_method(logger, "log_text"):
        target: Any = logger
        target.log_text(key=tag, columns=["text"], data=[[text]], step=step)
        return True
    experiment: Any = getattr(logger, "experiment", None)
    if has_method(experiment, "add_text"):
        experiment.add_text(tag, text, step)
        return True
    # MLflow has a log_text too, but as a file of a run and without a step.
    if has_method(experiment, "log_text") and has_method(experiment, "log_histogram_3d"):
        experiment.log_text(text, step=step, metadata={"tag": tag})
        return True
    return False


def log_histogram(logger: object, tag: str, values: Tensor, step: int) -> bool:
    """Write the distribution of values; those that are not finite are left out.

    Args:
        logger: any logger of Lightning, or None.
        tag: for instance ``"saliency_drift_samples/grad_cam/previous/spearman"``.
        values: floating point or integer, of any shape.
        step: the global step that they belong to.

    Returns:
        Whether anything was written: False if no value is finite, or the logger takes no
        histograms (TensorBoard and Comet do).
    """
    kept = values.detach().cpu().double().flatten()
    kept = kept[torch.isfinite(kept)]
    experiment: Any = getattr(logger, "experiment", None)
    if len(kept) == 0:
        return False
    if has_method(experiment, "add_histogram"):
        experiment.add_histogram(tag, kept.numpy(), step)
        return True
    if has_method(experiment, "log_histogram_3d"):
        experiment.log_histogram_3d(kept.tolist(), name=tag, step=step)
        return True
    return False
