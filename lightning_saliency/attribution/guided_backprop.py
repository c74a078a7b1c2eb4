"""Guided backpropagation: the gradient along the units that are active and speak for the class.

Springenberg, Dosovitskiy, Brox, Riedmiller. Striving for simplicity: the all convolutional net.
ICLR workshop 2015, arXiv:1412.6806.
"""

from dataclasses import dataclass

from lightning_saliency.attribution.gradient_bases import RectifiedGradient
from lightning_saliency.attribution.torchray_functions import map_function
from lightning_saliency.attribution.verdict import ADEBAYO, NIE, SIXT, Verdict
from lightning_saliency.network.relu_rules import guided

__all__ = ["GuidedBackprop", "guided_backprop"]


@dataclass(frozen=True)
class GuidedBackprop(RectifiedGradient):
    """Gradient that passes a ReLU only where the unit is active and the gradient is positive.

    R = G * [f(x) > 0] * [G > 0] for a ReLU f with gradient G from above; the map is the largest
    absolute value of what arrives over the channels of each pixel.

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

    name = "guided_backprop"
    shows = "the same, and only through active units"
    verdict = Verdict(
        "fails",
        "The maps hardly depend on the later layers; they recover edges of the image.",
        (ADEBAYO, NIE, SIXT),
    )

    relu_rule = staticmethod(guided)


guided_backprop = map_function(GuidedBackprop)
