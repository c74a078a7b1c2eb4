"""From a picture to what a model takes."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.errors import InputError


@dataclass(frozen=True)
class Preprocessing:
    """Resizing and normalization.

    Attributes:
        mean: of each channel, for pictures in [0, 1].
        std: of each channel.
        side: the shorter side after resizing, in pixels; None leaves pictures as large as they are.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    side: int | None = 224

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: one of them cannot be used.
        """
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in self.std):
            raise InputError(
                "Expected mean and std as three numbers each, those of std above 0, got "
                f"{self.mean!r} and {self.std!r}."
            )
        if self.side is not None and self.side < 1:
            raise InputError(f"Expected side to be at least 1 pixel, got {self.side}.")

    def size(self, size: tuple[int, int], square: bool = False) -> tuple[int, int]:
        """Return the (height, width) that a picture of ``size`` gets.

        Args:
            size: (height, width) in pixels.
            square: give up the aspect ratio.
        """
        if self.side is None:
            return size
        if square:
            return self.side, self.side
        height, width = size
        if width < height:
            return int(self.side * height / width), self.side
        return self.side, int(self.side * width / height)

    def __call__(self, picture: Tensor, square: bool = False) -> Tensor:
        """Resize by linear interpolation between the nearest pixels, and normalize.

        Args:
            picture: (3, H, W), in [0, 1].
            square: give up the aspect ratio.

        Returns:
            (3, h, w), same dtype.
        """
        size = self.size((picture.shape[1], picture.shape[2]), square)
        if size != tuple(picture.shape[1:]):
            picture = F.interpolate(picture[None], size, mode="bilinear", align_corners=False)[0]
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (picture - mean[:, None, None]) / std[:, None, None]


IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What torchvision's models are trained with."""

CAFFE = Preprocessing((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255))
"""What models from Caffe are trained with: colors from 0 to 255, minus their mean."""
