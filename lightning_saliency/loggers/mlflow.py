"""MLflow."""

import inspect
import re

from PIL import Image
from torch import Tensor
from typing_extensions import override

from lightning_saliency.loggers.adapter import LogAdapter
from lightning_saliency.loggers.pixels import to_pixels


class MLflowAdapter(LogAdapter):
    """Takes images; its texts are files of a run, without a step."""

    @property
    @override
    def takes_images(self) -> bool:
        return True

    @override
    def image(self, tag: str, image: Tensor, step: int, *, palette: bool = False) -> bool:
        picture = Image.fromarray(to_pixels(image))
        client, run = self.logger.experiment, self.logger.run_id
        name = re.sub(r"[^\w\-./ ]", "_", tag, flags=re.ASCII)
        # Images with a step came with MLflow 2.13; before, an image was a file.
        if "key" in inspect.signature(client.log_image).parameters:
            client.log_image(run, picture, key=name, step=step)
        else:
            client.log_image(run, picture, f"{name}/{step:08d}.png")
        return True
