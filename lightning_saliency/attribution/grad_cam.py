"""Grad-CAM: the channels of a layer, weighted by how much the score rises with each.

Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra. Grad-CAM: visual explanations from deep networks
via gradient-based localization. ICCV 2017, arXiv:1610.02391.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lightning_saliency.attribution.gradient_bases import LayerMethod
from lightning_saliency.attribution.verdict import ADEBAYO, Verdict
from lightning_saliency.image.resize import ResizeMode
from lightning_saliency.network.grid import Layout
from lightning_saliency.network.score import Target

__all__ = ["GradCAM", "grad_cam", "grad_cam_map"]


def grad_cam_map(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the positive part of the channels' sum, each weighted by its mean gradient.

    Equations 1 and 2 of the paper.

    Args:
        activation: (N, K, h, w), what the layer put out.
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

    name: ClassVar[str] = "grad_cam"
    shows: ClassVar[str] = "where the channels that speak for the class are active"
    verdict: ClassVar[Verdict] = Verdict(
        "passes", "The maps change with the weights of every layer.", (ADEBAYO,)
    )

    @staticmethod
    def layer_map(activation: Tensor, gradient: Tensor) -> Tensor:
        """Return :func:`grad_cam_map` of the layer."""
        return grad_cam_map(activation, gradient)


def grad_cam(
    model: nn.Module,
    input: Tensor,
    target: Target,
    saliency_layer: str | None = "",
    resize: bool | tuple[int, int] = False,
    resize_mode: ResizeMode = "bilinear",
    smooth: float = 0.0,
    layout: Layout = "auto",
) -> Tensor:
    """Return :class:`GradCAM` maps.

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
    method = GradCAM(
        saliency_layer or None, layout, resize=resize, resize_mode=resize_mode, smooth=smooth
    )
    return method(model, input, target)
