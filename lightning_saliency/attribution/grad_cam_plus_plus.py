"""Grad-CAM++: Grad-CAM with channel weights that count several objects of the class.

Chattopadhay, Sarkar, Howlader, Balasubramanian. Grad-CAM++: generalized gradient-based visual
explanations for deep convolutional networks. WACV 2018, arXiv:1710.11063.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lightning_saliency.attribution.gradient_bases import LayerMethod
from lightning_saliency.attribution.verdict import Verdict
from lightning_saliency.image.resize import ResizeMode
from lightning_saliency.network.grid import Layout
from lightning_saliency.network.score import Target

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

    name: ClassVar[str] = "grad_cam_pp"
    shows: ClassVar[str] = "as Grad-CAM, with every object of the class, also small ones"
    verdict: ClassVar[Verdict] = Verdict(
        "not tested",
        "Grad-CAM passes, which weights the same channels by other means of gradients.",
    )

    @staticmethod
    def layer_map(activation: Tensor, gradient: Tensor) -> Tensor:
        """Return :func:`grad_cam_plus_plus_map` of the layer."""
        return grad_cam_plus_plus_map(activation, gradient)


def grad_cam_plus_plus(
    model: nn.Module,
    input: Tensor,
    target: Target,
    saliency_layer: str | None = "",
    resize: bool | tuple[int, int] = False,
    resize_mode: ResizeMode = "bilinear",
    smooth: float = 0.0,
    layout: Layout = "auto",
) -> Tensor:
    """Return :class:`GradCAMPlusPlus` maps.

    Args:
        model: takes ``input`` and returns class scores; it is not changed.
        input: (N, C, H, W).
        target: class index, one for each image, ``"predicted"``, or a callable.
        saliency_layer: name of the layer whose output is explained; ``""`` or None for the last
            layer with a spatial output.
        resize: True resizes the map to the image, a pair is (height, width).
        resize_mode: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"area"``.
        smooth: sigma of a Gaussian blur, as a fraction of the map's longer side.
        layout: how the layer's output is laid out; ``"auto"`` finds out.

    Returns:
        (N, 1, h, w), >= 0, of the layer's height and width unless ``resize`` is given.

    Raises:
        InputError: the image, the target or a setting cannot be used.
        LayerError: the layer does not exist, did not run once, or has no spatial output.
        ModelError: the score cannot be differentiated.
    """
    method = GradCAMPlusPlus(
        saliency_layer or None, layout, resize=resize, resize_mode=resize_mode, smooth=smooth
    )
    return method(model, input, target)
