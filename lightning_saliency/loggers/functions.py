"""The verbs as functions of a logger, for a single call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_saliency.loggers.choice import adapter_for

__all__ = [
    "log_charts",
    "log_film",
    "log_histogram",
    "log_image",
    "log_scalars",
    "log_text",
    "takes_images",
]


def takes_images(logger: object) -> bool:
    """Return whether :func:`log_image` can write to this logger.

    Args:
        logger: any logger of Lightning, or None.

    Returns:
        True for TensorBoard, Weights & Biases, MLflow and Comet; False for the others and None. It
        is meant for rank zero; above it, Lightning's loggers drop what they are given.
    """
    return adapter_for(logger).takes_images


def log_image(logger: object, tag: str, image: Tensor, step: int, *, palette: bool = False) -> bool:
    """Write an image; see :meth:`~lightning_saliency.loggers.LogAdapter.image`.

    Args:
        logger: any logger of Lightning, or None.
        tag: for instance ``"saliency/grad_cam/sample_0"``.
        image: (3, H, W), floating point in [0, 1] or uint8, on any device.
        step: the global step that it belongs to.
        palette: True lets TensorBoard have the image in 256 colors.

    Returns:
        Whether the logger takes images; if not, nothing was done.

    Raises:
        InputError: ``image`` has another shape or type.
    """
    return adapter_for(logger).image(tag, image, step, palette=palette)


def log_scalars(logger: object, values: Mapping[str, float | Tensor], step: int) -> bool:
    """Write numbers; see :meth:`~lightning_saliency.loggers.LogAdapter.scalars`.

    Args:
        logger: any logger of Lightning, or None.
        values: number by tag; a tensor is a scalar (one element).
        step: the global step that they belong to.

    Returns:
        Whether the logger takes numbers; all of Lightning's do.
    """
    return adapter_for(logger).scalars(values, step)


def log_text(logger: object, tag: str, text: str, step: int) -> bool:
    """Write a text; see :meth:`~lightning_saliency.loggers.LogAdapter.text`.

    Args:
        logger: any logger of Lightning, or None.
        tag: for instance ``"saliency_alarm"``.
        text: one or more lines.
        step: the global step that it belongs to.

    Returns:
        Whether the logger takes texts (TensorBoard, Weights & Biases, Comet).
    """
    return adapter_for(logger).text(tag, text, step)


def log_histogram(logger: object, tag: str, values: Tensor, step: int) -> bool:
    """Write the distribution of values; see :meth:`~.adapter.LogAdapter.histogram`.

    Args:
        logger: any logger of Lightning, or None.
        tag: for instance ``"saliency_drift_samples/grad_cam/previous/spearman"``.
        values: floating point or integer, of any shape.
        step: the global step that they belong to.

    Returns:
        Whether anything was written: False if no value is finite, or the logger takes no
        histograms (TensorBoard and Comet do).
    """
    return adapter_for(logger).histogram(tag, values, step)


def log_film(logger: object, tag: str, file: bytes, step: int) -> bool:
    """Write an animated GIF; see :meth:`~lightning_saliency.loggers.LogAdapter.film`.

    Args:
        logger: any logger of Lightning, or None.
        tag: for instance ``"saliency_timelapse/grad_cam"``.
        file: the GIF.
        step: the global step that it belongs to.

    Returns:
        Whether the logger takes it (TensorBoard).
    """
    return adapter_for(logger).film(tag, file, step)


def log_charts(logger: object, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> bool:
    """Lay out charts; see :meth:`~lightning_saliency.loggers.LogAdapter.charts`.

    Args:
        logger: any logger of Lightning, or None.
        charts: by category and title the tags, as regular expressions, of one chart.

    Returns:
        Whether the logger takes layouts (TensorBoard).
    """
    return adapter_for(logger).charts(charts)
