"""Grad-CAM++: Grad-CAM with channel weights that count several objects of the class.

Chattopadhay, Sarkar, Howlader, Balasubramanian. Grad-CAM++: generalized gradient-based visual
explanations for deep convolutional networks. WACV 2018, arXiv:1710.11063.
"""

from dataclasses import dataclass

from torch import Tensor

from lightning_saliency.attribution.gradient_bases import LayerMethod
from lightning_saliency.attribution.torchray_functions import layer_function
from lightning_saliency.attribution.verdict import Verdict

__all__ = ["GradCAMPlusPlus", "grad_cam_plus_plus", "grad_cam_plus_plus_map"]


def grad_cam_plus_plus_map(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the positive part of the weighted sum of the channels, by equations 7 and 19.

    A channel's weight is the sum of its positive gradients g, each times g^2 / (2 g^2 + g^3 sum A),
    which is 1 / (2 + g sum A), with the sum of the channel's activation A over all places. The
    paper explains the exponential of the score; that multiplies the map of each image by a constant
    and is left out.

    Args:
        activation: (N, K, h, w), the layer's output; the paper's is >= 0, as after a ReLU.
        gradient: (N, K, h, w), derivative of the score with respect to it.

    Returns:
        (N, 1, h, w), >= 0.
    """
    divisor = 2 + gradient * activation.sum((2, 3), keepdim=True)
    # Of activations >= 0 it is at least 2 where the gradient is positive.
    shares = (gradient.clamp(min=0) / divisor).where(divisor != 0, 0)
    weights = shares.sum((2, 3), keepdim=True)
    return (weights * activation).sum(1, keepdim=True).clamp(min=0)


@dataclass(frozen=True)
class GradCAMPlusPlus(LayerMethod):
    """Where the channels that speak for the class are active, each object counting alike.

    Grad-CAM averages a channel's gradient over all places, so that a small object gives a small
    weight; here the places are weighted so that it does not. The layer's output should be >= 0, as
    after a ReLU. Maps are >= 0, up to a factor for each image. One forward pass, and a backward
    pass of the layers after ``saliency_layer``.

    Args:
        saliency_layer: name of the layer whose output is explained; None for the last layer with a
            spatial output.
        layout: how that output is laid out; ``"auto"`` finds out. See :class:`LayerMethod`.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name = "grad_cam_pp"
    shows = "as Grad-CAM, with every object of the class, also small ones"
    when_zero = "all evidence negative"
    verdict = Verdict(
        "not tested",
        "Grad-CAM passes, which weights the same channels by other means of gradients.",
    )

    layer_map = staticmethod(grad_cam_plus_plus_map)


grad_cam_plus_plus = layer_function(GradCAMPlusPlus)
