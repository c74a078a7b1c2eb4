"""Weights & Biases."""

from PIL import Image
from torch import Tensor
from typing_extensions import override

from lightning_saliency.loggers.adapter import LogAdapter, has_method
from lightning_saliency.loggers.pixels import to_pixels


class WandbAdapter(LogAdapter):
    """Takes images and texts, through methods of the logger; its experiment is not accessed."""

    @property
    @override
    def takes_images(self) -> bool:
        return has_method(self.logger, "log_image")

    @override
    def image(self, tag: str, image: Tensor, step: int, *, palette: bool = False) -> bool:
        if not self.takes_images:
            return super().image(tag, image, step, palette=palette)
        self.logger.log_image(tag, [Image.fromarray(to_pixels(image))], step=step)
        return True

    @override
    def text(self, tag: str, text: str, step: int) -> bool:
        if not has_method(self.logger, "log_text"):
            return super().text(tag, text, step)
        self.logger.log_text(key=tag, columns=["text"], data=[[text]], step=step)
        return True
