"""Comet."""

from typing import Any

from PIL import Image
from torch import Tensor
from typing_extensions import override

from lightning_saliency.loggers.adapter import LogAdapter, finite_values, has_method
from lightning_saliency.loggers.pixels import to_pixels


class CometAdapter(LogAdapter):
    """Takes images, texts and histograms.

    Args:
        logger: whose experiment is one of Comet's.
    """

    def __init__(self, logger: object) -> None:
        super().__init__(logger)
        self._experiment: Any = self.logger.experiment

    @property
    @override
    def takes_images(self) -> bool:
        return has_method(self._experiment, "log_image")

    @override
    def image(self, tag: str, image: Tensor, step: int, *, palette: bool = False) -> bool:
        if not self.takes_images:
            return super().image(tag, image, step, palette=palette)
        self._experiment.log_image(Image.fromarray(to_pixels(image)), name=tag, step=step)
        return True

    @override
    def text(self, tag: str, text: str, step: int) -> bool:
        # MLflow has a log_text too, but as a file of a run and without a step.
        is_comet = has_method(self._experiment, "log_histogram_3d")
        if not (is_comet and has_method(self._experiment, "log_text")):
            return super().text(tag, text, step)
        self._experiment.log_text(text, step=step, metadata={"tag": tag})
        return True

    @override
    def histogram(self, tag: str, values: Tensor, step: int) -> bool:
        if not has_method(self._experiment, "log_histogram_3d"):
            return super().histogram(tag, values, step)
        kept = finite_values(values)
        if len(kept):
            self._experiment.log_histogram_3d(kept.tolist(), name=tag, step=step)
        return len(kept) > 0
