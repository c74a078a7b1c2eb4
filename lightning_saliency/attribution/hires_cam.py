"""HiResCAM: the activations of a layer times their gradients, summed over the channels.

Draelos, Carin. Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
networks. 2020, arXiv:2011.08891.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lightning_saliency.attribution.gradient_bases import LayerMethod
from lightning_saliency.attribution.verdict import Verdict
from lightning_saliency.image.resize import ResizeMode
from lightning_saliency.network.grid import Layout
from lightning_saliency.network.score import Target

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

    name: ClassVar[str] = "hires_cam"
    shows: ClassVar[str] = "how much each place of a layer adds to the score, where it does"
    verdict: ClassVar[Verdict] = Verdict(
        "not tested", "At the input it is the positive part of gradient x input, which is mixed."
    )

    @staticmethod
    def layer_map(activation: Tensor, gradient: Tensor) -> Tensor:
        """Return :func:`hires_cam_map` of the layer."""
        return hires_cam_map(activation, gradient)


def hires_cam(
    model: nn.Module,
    input: Tensor,
    target: Target,
    saliency_layer: str | None = "",
    resize: bool | tuple[int, int] = False,
    resize_mode: ResizeMode = "bilinear",
    smooth: float = 0.0,
    layout: Layout = "auto",
) -> Tensor:
    """Return :class:`HiResCAM` maps.

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
    method = HiResCAM(
        saliency_layer or None, layout, resize=resize, resize_mode=resize_mode, smooth=smooth
    )
    return method(model, input, target)
