"""TensorBoard, and writers with the same methods, such as that of tensorboardX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from typing import Any

from PIL import Image
from torch import Tensor
from typing_extensions import override

from lightning_saliency.loggers.adapter import LogAdapter, finite_values, has_method
from lightning_saliency.loggers.event_file import (
    check_limit,
    check_open_files,
    check_room,
    reopen,
)
from lightning_saliency.loggers.pixels import png_file, to_pixels


class TensorBoardAdapter(LogAdapter):
    """Takes everything.

    Args:
        logger: whose experiment is a ``SummaryWriter``, or has some of its methods.
    """

    def __init__(self, logger: object) -> None:
        super().__init__(logger)
        # Imported here because it is slow, and only TensorBoard needs it.
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = self.logger.experiment
        # A subclass may have an add_image of its own, which must not be passed by.
        self._takes_files = (
            getattr(type(self._writer), "add_image", None) is SummaryWriter.add_image
        )

    @property
    @override
    def takes_images(self) -> bool:
        return has_method(self._writer, "add_image")

    @override
    def image(self, tag: str, image: Tensor, step: int, *, palette: bool = False) -> bool:
        if not self.takes_images:
            return super().image(tag, image, step, palette=palette)
        pixels = to_pixels(image)
        if self._takes_files:
            height, width = pixels.shape[:2]
            self._add_file(tag, png_file(pixels, palette), (height, width), step)
        else:
            with self._guarded(pixels.nbytes):
                self._writer.add_image(tag, pixels, step, dataformats="HWC")
        return True

    @override
    def flush(self) -> None:
        if has_method(self._writer, "flush"):
            with self._guarded():
                self._writer.flush()

    @override
    def text(self, tag: str, text: str, step: int) -> bool:
        if not has_method(self._writer, "add_text"):
            return super().text(tag, text, step)
        with self._at_once(len(text)):
            self._writer.add_text(tag, text, step)
        return True

    @override
    def histogram(self, tag: str, values: Tensor, step: int) -> bool:
        if not has_method(self._writer, "add_histogram"):
            return super().histogram(tag, values, step)
        kept = finite_values(values)
        if len(kept):
            with self._at_once():
                self._writer.add_histogram(tag, kept.numpy(), step)
        return len(kept) > 0

    @override
    def film(self, tag: str, file: bytes, step: int) -> bool:
        if not self._takes_files:
            return super().film(tag, file, step)
        with Image.open(BytesIO(file)) as first:
            width, height = first.size
        with self._at_once():
            self._add_file(tag, file, (height, width), step)
        return True

    @override
    def charts(self, charts: Mapping[str, Mapping[str, Sequence[str]]]) -> bool:
        if not has_method(self._writer, "add_custom_scalars"):
            return super().charts(charts)
        layout = {
            category: {title: ["Multiline", list(tags)] for title, tags in titles.items()}
            for category, titles in charts.items()
        }
        with self._at_once():
            self._writer.add_custom_scalars(layout)
        return True

    @contextmanager
    def _guarded(self, size: int = 0) -> Iterator[None]:
        """Write something of ours; if the disk does not take it, the writer goes on without."""
        check_room(getattr(self._writer, "log_dir", ""), size, self.reserve)
        check_limit(self._writer, size)
        check_open_files()
        try:
            yield
        except OSError:
            reopen(self._writer)
            raise

    @contextmanager
    def _at_once(self, size: int = 0) -> Iterator[None]:
        """Write what is waiting, which may be the run's own, and then something of ours."""
        self.flush()
        with self._guarded(size):
            yield
        self.flush()

    def _add_file(self, tag: str, file: bytes, size: tuple[int, int], step: int) -> None:
        """Do what ``SummaryWriter.add_image`` does once it has compressed the image."""
        # Imported by name because tensorboard says nothing about its types.
        summary_type = import_module("tensorboard.compat.proto.summary_pb2").Summary
        encoded = summary_type.Image(
            height=size[0], width=size[1], colorspace=3, encoded_image_string=file
        )
        summary = summary_type(value=[summary_type.Value(tag=tag, image=encoded)])
        with self._guarded(len(file)):
            self._writer._get_file_writer().add_summary(summary, step)
