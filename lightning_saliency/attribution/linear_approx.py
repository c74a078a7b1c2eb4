"""Linear approximation: each place's part in the score, if the rest of the network were linear.

This is the gradient times the activation, the first term of the Taylor expansion of the score
around a layer's output. Simonyan, Vedaldi, Zisserman. Deep inside convolutional networks:
visualising image classification models and saliency maps. ICLR workshop 2014, arXiv:1312.6034.
Shrikumar, Greenside, Shcherbina, Kundaje. Not just a black box: learning important features
through propagating activation differences. 2016, arXiv:1605.01713 (for the image: gradient times
input).
"""

from dataclasses import dataclass

from torch import Tensor

from lightning_saliency.attribution.gradient_bases import LayerMethod
from lightning_saliency.attribution.torchray_functions import layer_function
from lightning_saliency.attribution.verdict import ADEBAYO, Verdict

__all__ = ["LinearApprox", "linear_approx", "linear_approx_map"]


def linear_approx_map(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the sum over the channels of activation times gradient.

    Args:
        activation: (N, K, h, w), the layer's output.
        gradient: (N, K, h, w), derivative of the score with respect to it.

    Returns:
        (N, 1, h, w), of either sign.
    """
    return (activation * gradient).sum(1, keepdim=True)


@dataclass(frozen=True)
class LinearApprox(LayerMethod):
    """How much each place of one layer adds to the score, to first order.

    Maps have a sign: positive where the place speaks for the class, negative where it speaks
    against it. If the layers after it are linear without bias, the map sums to the score. One
    forward pass, and a backward pass of the layers after ``saliency_layer``.

    Args:
        saliency_layer: name of the layer whose output is explained; None for the last layer with a
            spatial output.
        layout: how that output is laid out; ``"auto"`` finds out. See :class:`LayerMethod`.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name = "linear_approx"
    shows = "how much each place of a layer adds to the score, with sign"
    signed = True
    verdict = Verdict(
        "mixed",
        "At the input (gradient x input) ranks with their sign change, while SSIM and ranks of "
        "magnitudes stay high because the image is a factor; not tested at other layers.",
        (ADEBAYO,),
    )

    layer_map = staticmethod(linear_approx_map)


linear_approx = layer_function(LinearApprox)
