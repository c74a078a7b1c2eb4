"""Grad-CAM: the channels of a layer, weighted by how much the score rises with each.

Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra. Grad-CAM: visual explanations from deep networks
via gradient-based localization. ICCV 2017, arXiv:1610.02391.
"""

from dataclasses import dataclass

from torch import Tensor

from lightning_saliency.attribution.gradient_bases import LayerMethod
from lightning_saliency.attribution.torchray_functions import layer_function
from lightning_saliency.attribution.verdict import ADEBAYO, Verdict

__all__ = ["GradCAM", "grad_cam", "grad_cam_map"]


def grad_cam_map(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the positive part of the channels' sum, each weighted by its mean gradient.

    Equations 1 and 2 of the paper.

    Args:
        activation: (N, K, h, w), the layer's output.
        gradient: (N, K, h, w), derivative of the score with respect to it.

    Returns:
        (N, 1, h, w), >= 0; all zero where no channel speaks for the class on the whole.
    """
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * activation).sum(1, keepdim=True).clamp(min=0)


@dataclass(frozen=True)
class GradCAM(LayerMethod):
    """Where the channels that speak for the class are active, at the resolution of one layer.

    Maps are >= 0. One forward pass, and a backward pass of the layers after ``saliency_layer``.

    Args:
        saliency_layer: name of the layer whose output is explained; None for the last layer with a
            spatial output.
        layout: how that output is laid out; ``"auto"`` finds out. See :class:`LayerMethod`.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name = "grad_cam"
    shows = "where the channels that speak for the class are active"
    when_zero = "all evidence negative"
    verdict = Verdict("passes", "The maps change with the weights of every layer.", (ADEBAYO,))

    layer_map = staticmethod(grad_cam_map)


grad_cam = layer_function(GradCAM)
