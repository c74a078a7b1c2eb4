"""Weights & Biases."""

import re

from PIL import Image
from torch import Tensor
from typing_extensions import override

from lightning_saliency.loggers.adapter import LogAdapter, has_method
from lightning_saliency.loggers.pixels import to_pixels

_HEAD_AND_RULE = 2


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
        columns, data = _table(text) or (["text"], [[text]])
        self.logger.log_text(key=tag, columns=columns, data=data, step=step)
        return True


def _table(text: str) -> tuple[list[str], list[list[str]]] | None:
    """Return the columns and rows of a text that is a table in Markdown and nothing else."""
    lines = text.splitlines()
    if len(lines) < _HEAD_AND_RULE or not all(line.startswith("| ") for line in lines):
        return None
    head, _, *rows = ([cell.replace("\\|", "|") for cell in _cells(line)] for line in lines)
    return head, rows


def _cells(line: str) -> list[str]:
    return re.split(r" (?<!\\)\| ", line.strip().removeprefix("| ").removesuffix(" |"))
