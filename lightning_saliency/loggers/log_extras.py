"""What only TensorBoard shows: a film, and charts that put several numbers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from PIL import Image

from lightning_saliency.loggers.defined import has_method
from lightning_saliency.loggers.log_image import add_image_file

__all__ = ["log_charts", "log_film"]


def log_film(logger: object, tag: str, file: bytes, step: int) -> bool:
    """Write an animated GIF among the images.

    Args:
        logger: any logger of Lightning, or None.
        tag: for instance ``"saliency_timelapse/grad_cam"``.
        file: the GIF.
        step: the global step that it belongs to.

    Returns:
        Whether the logger takes it (TensorBoard); if not, nothing was done.
    """
    with Image.open(BytesIO(file)) as first:
        width, height = first.size
    experiment: Any = getattr(logger, "experiment", None)
    return add_image_file(experiment, tag, file, (height, width), step)


def log_charts(logger: object, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> bool:
    """Lay out TensorBoard's custom scalars; of several layouts of a run it keeps the last.

    Args:
        logger: any logger of Lightning, or None.
        charts: by category and title the tags, as regular expressions, whose numbers stand in one
            chart.

    Returns:
        Whether the logger takes layouts (TensorBoard); if not, nothing was done.
    """
    experiment: Any = getattr(logger, "experiment", None)
    if not has_method(experiment, "add_custom_scalars"):
        return False
    experiment.add_custom_scalars(
        {
            category: {title: ["Multiline", list(tags)] for title, tags in titles.items()}
            for category, titles in charts.items()
        }
    )
    return True
