"""DeconvNet: the score projected back through the network, rectified on the way down.

Zeiler, Fergus. Visualizing and understanding convolutional networks. ECCV 2014, arXiv:1311.2901.
"""

from dataclasses import dataclass

from lightning_saliency.attribution.gradient_bases import RectifiedGradient
from lightning_saliency.attribution.torchray_functions import map_function
from lightning_saliency.attribution.verdict import NIE, SIXT, Verdict
from lightning_saliency.network.relu_rules import deconvnet as deconvnet_rule

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

    name = "deconvnet"
    shows = "the gradient, of which each ReLU passes only what is positive"
    verdict = Verdict(
        "fails",
        "The maps recover parts of the image, and do not depend on the later layers.",
        (NIE, SIXT),
    )

    relu_rule = staticmethod(deconvnet_rule)


deconvnet = map_function(DeconvNet)
