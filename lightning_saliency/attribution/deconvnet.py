"""DeconvNet: the score projected back through the network, rectified on the way down.

Zeiler, Fergus. Visualizing and understanding convolutional networks. ECCV 2014, arXiv:1311.2901.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lightning_saliency.attribution.gradient_bases import RectifiedGradient
from lightning_saliency.attribution.verdict import NIE, SIXT, Verdict
from lightning_saliency.image.resize import ResizeMode
from lightning_saliency.network import relu_derivatives
from lightning_saliency.network.relu_derivatives import ReluRule
from lightning_saliency.network.score import Target

__all__ = ["DeconvNet", "deconvnet"]


@dataclass(frozen=True)
class DeconvNet(RectifiedGradient):
    """Gradient that passes a ReLU where it is positive, whether the unit is active or not.

    R = max(G, 0) for a ReLU with gradient G from above; the map is the largest absolute value of
    what arrives over the channels of each pixel. Max pooling goes back to where the maximum was, as
    in the paper.

    What counts as ReLU, in every spelling and in place or not: ReLU, ``clamp(min=0)``,
    ``threshold(x, 0, 0)``, ``maximum(x, 0)``, ReLU6 and ``hardtanh`` from 0 to a ceiling. Gates and
    normalizers (sigmoid, hardsigmoid, glu, softmax, attention) keep their derivative, as all other
    layers do. The paper says nothing of other activations (LeakyReLU, PReLU, ELU, SELU, GELU, SiLU,
    Hardswish, Mish, Softplus, tanh, ...), so a model that calls one is refused with its name,
    unless ``rules`` has an entry for it; a model without ReLU is refused too, because the map would
    be the plain gradient.

    Maps are >= 0. One forward and one backward pass.

    Args:
        saliency_layer: take the derivative with respect to this layer's output, of shape
            (N, K, h, w); ``""`` for the image.
        rules: a table {torch function: rule} for activations of your own, or ``None`` as a rule
            to keep an ordinary derivative; see
            :class:`~lightning_saliency.network.backward_rules.BackwardRules`.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name: ClassVar[str] = "deconvnet"
    shows: ClassVar[str] = "the gradient, of which each ReLU passes only what is positive"
    verdict: ClassVar[Verdict] = Verdict(
        "fails",
        "The maps recover parts of the image, and do not depend on the later layers.",
        (NIE, SIXT),
    )

    @staticmethod
    def relu_rule() -> ReluRule:
        """Return :func:`~lightning_saliency.network.relu_derivatives.deconvnet`."""
        return relu_derivatives.deconvnet


def deconvnet(
    model: nn.Module,
    input: Tensor,
    target: Target,
    saliency_layer: str = "",
    resize: bool | tuple[int, int] = False,
    resize_mode: ResizeMode = "bilinear",
    smooth: float = 0.0,
) -> Tensor:
    """Return :class:`DeconvNet` maps.

    Args:
        model: takes ``input`` and returns class scores; it is not changed.
        input: (N, C, H, W).
        target: class index, one for each image, ``"predicted"``, or a callable.
        saliency_layer: name of a layer; ``""`` for the image.
        resize: True resizes the map to the image, a pair is (height, width).
        resize_mode: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"area"``.
        smooth: sigma of a Gaussian blur, as a fraction of the map's longer side.

    Returns:
        (N, 1, H, W), >= 0; of the layer's height and width if there is a layer and no ``resize``.

    Raises:
        InputError: the image, the target or a setting cannot be used.
        LayerError: the layer does not exist or did not run once.
        NothingReplacedError: the model calls no ReLU.
        ModelError: it has activations without a rule, is scripted, or cannot be differentiated.
    """
    method = DeconvNet(saliency_layer, resize=resize, resize_mode=resize_mode, smooth=smooth)
    return method(model, input, target)
