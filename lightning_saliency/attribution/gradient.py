"""Gradient: how fast the score changes with each pixel.

Simonyan, Vedaldi, Zisserman. Deep inside convolutional networks: visualising image classification
models and saliency maps. ICLR workshop 2014, arXiv:1312.6034.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lightning_saliency.attribution.gradient_bases import (
    DERIVATIVE_STYLE,
    GradientMethod,
    gradient_map,
)
from lightning_saliency.attribution.pointing import PointingStyle
from lightning_saliency.attribution.verdict import ADEBAYO, Verdict
from lightning_saliency.image.resize import ResizeMode
from lightning_saliency.network.grid import fold
from lightning_saliency.network.score import Target

__all__ = ["Gradient", "gradient", "gradient_map"]


@dataclass(frozen=True)
class Gradient(GradientMethod):
    """The largest absolute derivative of the score over the channels of each pixel.

    Maps are >= 0, in units of the score per unit of the image. One forward and one backward pass.

    Args:
        saliency_layer: take the derivative with respect to this layer's output, a picture or the
            tokens of one (:func:`~lightning_saliency.network.grid.fold`); ``""`` for the image.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name: ClassVar[str] = "gradient"
    shows: ClassVar[str] = "how fast the score changes with each pixel"
    cost: ClassVar[str] = "1 forward + 1 backward"
    not_for: ClassVar[str] = "score not differentiable"
    layer_settings: ClassVar[tuple[str, ...]] = ("saliency_layer",)
    verdict: ClassVar[Verdict] = Verdict(
        "passes", "The maps change with the weights of every layer.", (ADEBAYO,)
    )
    pointing: ClassVar[PointingStyle] = DERIVATIVE_STYLE
    saliency_layer: str = ""

    def layer_of(self, model: nn.Module, image: Tensor) -> str:
        """Return ``saliency_layer``."""
        return self.saliency_layer

    def map_of(self, activation: Tensor, gradient: Tensor, size: tuple[int, int]) -> Tensor:
        """Return :func:`gradient_map` of the layer."""
        return gradient_map(fold(gradient, size))


def gradient(
    model: nn.Module,
    input: Tensor,
    target: Target,
    saliency_layer: str = "",
    resize: bool | tuple[int, int] = False,
    resize_mode: ResizeMode = "bilinear",
    smooth: float = 0.0,
) -> Tensor:
    """Return :class:`Gradient` maps.

    Args:
        model: takes ``input`` and returns class scores; it is not changed.
        input: (N, C, H, W).
        target: class index, one for each image, ``"predicted"``, or a callable.
        saliency_layer: name of a layer; ``""`` for the image.
        resize: True resizes the map to the image, a pair is (height, width).
        resize_mode: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"area"``.
        smooth: sigma of a Gaussian blur, as a fraction of the map's longer side.

    Returns:
        (N, 1, H, W), >= 0; of the layer's height and width if there is a layer and no ``resize``.

    Raises:
        InputError: the image, the target or a setting cannot be used.
        LayerError: the layer does not exist, did not run once, or has no spatial output.
        ModelError: the score cannot be differentiated.
    """
    method = Gradient(saliency_layer, resize=resize, resize_mode=resize_mode, smooth=smooth)
    return method(model, input, target)
