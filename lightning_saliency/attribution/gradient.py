"""Gradient: how fast the score changes with each pixel.

Simonyan, Vedaldi, Zisserman. Deep inside convolutional networks: visualising image classification
models and saliency maps. ICLR workshop 2014, arXiv:1312.6034.
"""

from dataclasses import dataclass, field

from torch import Tensor

from lightning_saliency.attribution.gradient_bases import (
    DERIVATIVE_STYLE,
    GradientMethod,
    gradient_map,
)
from lightning_saliency.attribution.method import ADDED_LATER
from lightning_saliency.attribution.torchray_functions import map_function
from lightning_saliency.attribution.verdict import ADEBAYO, Verdict
from lightning_saliency.network.grid import Layout

__all__ = ["Gradient", "gradient", "gradient_map"]


@dataclass(frozen=True)
class Gradient(GradientMethod):
    """The largest absolute derivative of the score over the channels of each pixel.

    Maps are >= 0, in units of the score per unit of the image. One forward and one backward pass.

    Args:
        saliency_layer: take the derivative with respect to this layer's output, a picture or the
            tokens of one (:func:`~lightning_saliency.network.grid.fold`); ``""`` for the image.
        layout: of the layer's output, see
            :class:`~lightning_saliency.attribution.gradient_bases.LayerMethod`.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name = "gradient"
    shows = "how fast the score changes with each pixel"
    cost = "1 forward + 1 backward"
    not_for = "score not differentiable"
    layer_settings = ("saliency_layer",)
    verdict = Verdict("passes", "The maps change with the weights of every layer.", (ADEBAYO,))
    pointing = DERIVATIVE_STYLE
    saliency_layer: str = ""
    layout: Layout = field(default="auto", kw_only=True, metadata=ADDED_LATER)

    def map_of(self, activation: Tensor, gradient: Tensor, size: tuple[int, int]) -> Tensor:
        """Return :func:`gradient_map` of the layer."""
        return gradient_map(self.picture(gradient, size))


gradient = map_function(Gradient)
