"""HiResCAM: the activations of a layer times their gradients, summed over the channels.

Draelos, Carin. Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
networks. 2020, arXiv:2011.08891.
"""

from dataclasses import dataclass

from torch import Tensor

from lightning_saliency.attribution.gradient_bases import LayerMethod
from lightning_saliency.attribution.torchray_functions import layer_function
from lightning_saliency.attribution.verdict import Verdict

__all__ = ["HiResCAM", "hires_cam", "hires_cam_map"]


def hires_cam_map(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the positive part of the sum over the channels of activation times gradient.

    Args:
        activation: (N, K, h, w), the layer's output.
        gradient: (N, K, h, w), derivative of the score with respect to it.

    Returns:
        (N, 1, h, w), >= 0.
    """
    return (activation * gradient).sum(1, keepdim=True).clamp(min=0)


@dataclass(frozen=True)
class HiResCAM(LayerMethod):
    """Where a layer adds to the score, place by place.

    Unlike Grad-CAM it does not average gradients over places; where only global average pooling and
    a linear layer follow, both are the same. The positive part is kept, as in Grad-CAM;
    :class:`~lightning_saliency.attribution.linear_approx.LinearApprox` is this with its sign. Maps
    are >= 0. One forward pass, and a backward pass of the layers after ``saliency_layer``.

    Args:
        saliency_layer: name of the layer whose output is explained; None for the last layer with a
            spatial output.
        layout: how that output is laid out; ``"auto"`` finds out. See :class:`LayerMethod`.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name = "hires_cam"
    shows = "how much each place of a layer adds to the score, where it does"
    when_zero = "all evidence negative"
    verdict = Verdict(
        "not tested", "At the input it is the positive part of gradient x input, which is mixed."
    )

    layer_map = staticmethod(hires_cam_map)


hires_cam = layer_function(HiResCAM)
