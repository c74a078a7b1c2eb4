"""One way to log an image, whatever the logger.

A logger is known by what it and its experiment can do, not by its class: ``lightning.pytorch`` and
``pytorch_lightning`` are two packages with the same loggers, and ``isinstance`` is False across
them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_saliency.errors import InputError
from lightning_saliency.loggers.defined import has_attribute, has_method
from lightning_saliency.loggers.png_file import Pixels, png_file

__all__ = ["add_image_file", "log_image", "takes_images"]

_Write: TypeAlias = Callable[[str, Pixels, int], object]


def takes_images(logger: object) -> bool:
    """Return whether :func:`log_image` can write to this logger.

    Args:
        logger: any logger of Lightning, or None.

    Returns:
        True for TensorBoard, Weights & Biases, MLflow and Comet; False for the others and None. It
        is meant for rank zero; above it, Lightning's loggers drop what they are given.
    """
    return _writer(logger) is not None


def log_image(logger: object, tag: str, image: Tensor, step: int, *, palette: bool = False) -> bool:
    """Write an image to a logger.

    Args:
        logger: any logger of Lightning, or None.
        tag: for instance ``"saliency/grad_cam/sample_0"``.
        image: (3, H, W), floating point in [0, 1] or uint8, on any device. Each value is rounded to
            the nearest of the 256 steps of a PNG.
        step: the global step that it belongs to.
        palette: True lets TensorBoard have the image in the 256 colours that suit it best: a
            quarter of the size and of the time, but colours are off by about 1 %. For large
            pictures that are written again and again, such as filmstrips. Other loggers get all
            colours.

    Returns:
        Whether the logger takes images; if not, nothing was done.

    Raises:
        InputError: ``image`` has another shape or type.
    """
    if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise InputError(f"Expected an image of shape (3, H, W), got {tuple(image.shape)}.")
    if not image.is_floating_point() and image.dtype != torch.uint8:
        raise InputError(f"Expected an image in [0, 1] or of dtype uint8, got {image.dtype}.")
    write = _writer(logger, palette)
    if write is None:
        return False
    write(tag, _to_pixels(image), step)
    return True


def add_image_file(writer: object, tag: str, file: bytes, size: tuple[int, int], step: int) -> bool:
    """Write a picture that is a file already, of a kind that browsers show.

    Args:
        writer: the experiment of a logger, or anything.
        tag: for instance ``"saliency_timelapse/grad_cam"``.
        file: for instance an animated GIF.
        size: (height, width) in pixels.
        step: the global step that it belongs to.

    Returns:
        Whether the writer is TensorBoard's; if not, nothing was done.
    """
    from torch.utils.tensorboard import SummaryWriter

    if getattr(type(writer), "add_image", None) is not SummaryWriter.add_image:
        return False
    _add_file(writer, tag, file, size, step)
    return True


def _to_pixels(image: Tensor) -> Pixels:
    """Return the image as bytes, (H, W, 3)."""
    pixels = image.detach().cpu()
    if pixels.dtype != torch.uint8:
        pixels = pixels.float().nan_to_num(0.0).clamp_(0, 1).mul_(255).round_().byte()
    # Always uint8, which numpy's types cannot know of a tensor.
    return np.asarray(pixels.permute(1, 2, 0).contiguous().numpy(), np.uint8)


def _writer(logger: object, palette: bool = False) -> _Write | None:
    """Return the function that writes an image to this logger, or None."""
    # Before the experiment is asked for: Weights & Biases writes through the logger itself.
    if has_method(logger, "log_image"):
        return _weights_and_biases(logger)
    experiment = getattr(logger, "experiment", None)
    if has_method(experiment, "add_image"):
        return _tensorboard(experiment, palette)
    if has_method(experiment, "log_image"):
        if has_attribute(logger, "run_id"):
            return _mlflow(logger, experiment)
        return _comet(experiment)
    return None


def _tensorboard(writer: Any, palette: bool) -> _Write:
    from torch.utils.tensorboard import SummaryWriter

    def write(tag: str, pixels: Pixels, step: int) -> None:
        if getattr(type(writer), "add_image", None) is SummaryWriter.add_image:
            _add_file(writer, tag, png_file(pixels, palette), pixels.shape, step)
        else:
            # Another writer that looks the same, such as that of tensorboardX.
            writer.add_image(tag, pixels, step, dataformats="HWC")

    return write


def _add_file(writer: Any, tag: str, file: bytes, shape: Sequence[int], step: int) -> None:
    """Do what ``SummaryWriter.add_image`` does once it has compressed the image."""
    # Imported by name because tensorboard says nothing about its types.
    summary_type = import_module("tensorboard.compat.proto.summary_pb2").Summary
    encoded = summary_type.Image(
        height=shape[0], width=shape[1], colorspace=3, encoded_image_string=file
    )
    summary = summary_type(value=[summary_type.Value(tag=tag, image=encoded)])
    writer._get_file_writer().add_summary(summary, step)


def _weights_and_biases(logger: Any) -> _Write:
    return lambda tag, pixels, step: logger.log_image(tag, [Image.fromarray(pixels)], step=step)


def _mlflow(logger: Any, client: Any) -> _Write:
    # Images with a step came with MLflow 2.13; before, an image was a file.
    stepped = "key" in inspect.signature(client.log_image).parameters

    def write(tag: str, pixels: Pixels, step: int) -> None:
        image = Image.fromarray(pixels)
        name = re.sub(r"[^\w\-./ ]", "_", tag, flags=re.ASCII)
        if stepped:
            client.log_image(logger.run_id, image, key=name, step=step)
        else:
            client.log_image(logger.run_id, image, f"{name}/{step:08d}.png")

    return write


def _comet(experiment: Any) -> _Write:
    return lambda tag, pixels, step: experiment.log_image(
        Image.fromarray(pixels), name=tag, step=step
    )
