"""LayerCAM: the activations of a layer, weighted place by place where the gradient is positive.

Jiang, Zhang, Hou, Cheng, Wei. LayerCAM: exploring hierarchical class activation maps for
localization. IEEE Transactions on Image Processing 2021, doi:10.1109/TIP.2021.3089943.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lightning_saliency.attribution.gradient_bases import LayerMethod
from lightning_saliency.attribution.verdict import Verdict
from lightning_saliency.image.resize import ResizeMode
from lightning_saliency.network.grid import Layout
from lightning_saliency.network.score import Target

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

    name: ClassVar[str] = "layer_cam"
    shows: ClassVar[str] = "where active channels speak for the class, place by place"
    verdict: ClassVar[Verdict] = Verdict(
        "not tested", "The maps depend on the later layers through the sign and size of gradients."
    )

    @staticmethod
    def layer_map(activation: Tensor, gradient: Tensor) -> Tensor:
        """Return :func:`layer_cam_map` of the layer."""
        return layer_cam_map(activation, gradient)


def layer_cam(
    model: nn.Module,
    input: Tensor,
    target: Target,
    saliency_layer: str | None = "",
    resize: bool | tuple[int, int] = False,
    resize_mode: ResizeMode = "bilinear",
    smooth: float = 0.0,
    layout: Layout = "auto",
) -> Tensor:
    """Return :class:`LayerCAM` maps.

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
    method = LayerCAM(
        saliency_layer or None, layout, resize=resize, resize_mode=resize_mode, smooth=smooth
    )
    return method(model, input, target)
