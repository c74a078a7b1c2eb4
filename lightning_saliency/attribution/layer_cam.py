"""LayerCAM: the activations of a layer, weighted place by place where the gradient is positive.

Jiang, Zhang, Hou, Cheng, Wei. LayerCAM: exploring hierarchical class activation maps for
localization. IEEE Transactions on Image Processing 2021, doi:10.1109/TIP.2021.3089943.
"""

from dataclasses import dataclass

from torch import Tensor

from lightning_saliency.attribution.gradient_bases import LayerMethod
from lightning_saliency.attribution.torchray_functions import layer_function
from lightning_saliency.attribution.verdict import Verdict

__all__ = ["LayerCAM", "layer_cam", "layer_cam_map"]


def layer_cam_map(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the positive part of the channels' sum, each weighted by its positive gradients.

    Equations 6 to 8 of the paper.

    Args:
        activation: (N, K, h, w), the layer's output.
        gradient: (N, K, h, w), derivative of the score with respect to it.

    Returns:
        (N, 1, h, w), >= 0.
    """
    return (gradient.clamp(min=0) * activation).sum(1, keepdim=True).clamp(min=0)


@dataclass(frozen=True)
class LayerCAM(LayerMethod):
    """Where a layer is active and more activity would raise the score, place by place.

    Unlike Grad-CAM, which gives each channel one weight, this is also sharp at early layers. Maps
    are >= 0. One forward pass, and a backward pass of the layers after ``saliency_layer``.

    Args:
        saliency_layer: name of the layer whose output is explained; None for the last layer with a
            spatial output.
        layout: how that output is laid out; ``"auto"`` finds out. See :class:`LayerMethod`.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name = "layer_cam"
    shows = "where active channels speak for the class, place by place"
    when_zero = "all evidence negative"
    verdict = Verdict(
        "not tested", "The maps depend on the later layers through the sign and size of gradients."
    )

    layer_map = staticmethod(layer_cam_map)


layer_cam = layer_function(LayerCAM)
