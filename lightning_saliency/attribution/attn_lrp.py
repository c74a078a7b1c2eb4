"""AttnLRP: relevance of each pixel, passed back through attention, gates and smooth activations.

Achtibat, Hatefi, Dreyer, Jain, Wiegand, Lapuschkin, Samek. AttnLRP: attention-aware layer-wise
relevance propagation for transformers. ICML 2024, arXiv:2402.05602.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from torch import Tensor, nn

from lightning_saliency.attribution.gradient_bases import DERIVATIVE_STYLE, GradientMethod
from lightning_saliency.attribution.guard import require_python_model
from lightning_saliency.attribution.linear_approx import linear_approx_map
from lightning_saliency.attribution.torchray_functions import map_function
from lightning_saliency.attribution.validation import check_choice
from lightning_saliency.attribution.verdict import Verdict
from lightning_saliency.errors import InputError
from lightning_saliency.network.attn_lrp_rules import (
    AttnLRPRules,
    SoftmaxRule,
    attn_lrp_rules,
    refuse_nonlinear,
)
from lightning_saliency.network.backward_rules import BackwardRules, Rules
from lightning_saliency.network.grid import Layout

__all__ = ["AttnLRP", "attn_lrp"]


@dataclass(frozen=True)
class AttnLRP(GradientMethod):
    """How much each pixel adds to the score, by rules for every part of a modern network.

    Where guided and excitation backprop do not apply, on networks with GELU, SiLU, layer
    normalization, gates (squeeze-and-excitation) and attention, this does. The relevance of a value
    is the value times a modified gradient; the rules for each function are those of
    :mod:`~lightning_saliency.network.attn_lrp_rules`. On networks whose functions are piecewise
    linear without products of activations, such as ResNets, it is gradient times input exactly.

    Maps have a sign: positive where a pixel speaks for the class. One forward pass and one backward
    pass; three to seven times that with a gamma. In the "cp" variant, relevances and the parts of
    the biases sum to the score; in the other the softmax keeps a part of it.

    Args:
        saliency_layer: read the relevance at this layer's output; ``""`` for the image.
        softmax: ``"attnlrp"`` passes relevance through the attention weights, ``"cp"`` takes them
            for constants (Ali et al. 2022, arXiv:2202.07304).
        conv_gamma: how much more the weights count in convolutions that speak for a unit's own
            sign, >= 0; .25 gives smoother maps.
        linear_gamma: the same in linear layers; .05 with a ``conv_gamma`` of .25.
        layout: of the layer's output, see
            :class:`~lightning_saliency.attribution.gradient_bases.LayerMethod`.
        rules: a table {torch function: rule} for functions of your own, see
            :class:`~lightning_saliency.network.backward_rules.BackwardRules`.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name = "attn_lrp"
    shows = "how much each pixel adds to the score, with sign, also through attention and gates"
    cost = "1 forward + 1 backward; with gamma 3 to 7 times that"
    not_for = "softplus, exponentials and powers by hand, recurrent layers"
    layer_settings = ("saliency_layer",)
    signed = True
    verdict = Verdict("not tested", "No paper that is named here has tested it.")
    pointing = DERIVATIVE_STYLE
    saliency_layer: str = ""
    layout: Layout = field(default="auto", kw_only=True)
    softmax: SoftmaxRule = field(default="attnlrp", kw_only=True)
    conv_gamma: float = field(default=0.0, kw_only=True)
    linear_gamma: float = field(default=0.0, kw_only=True)
    # Functions have neither a lasting repr nor a dict a hash; equal methods still hash equally.
    rules: Rules | None = field(default=None, kw_only=True, repr=False, hash=False)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: one of them is out of its range.
        """
        super().__post_init__()
        check_choice("softmax", self.softmax, get_args(SoftmaxRule))
        for name in ("conv_gamma", "linear_gamma"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise InputError(f"Expected {name} >= 0, got {value!r}.")

    def map_of(self, activation: Tensor, gradient: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the sum over the channels of the layer's output times the modified gradient."""
        return linear_approx_map(self.picture(activation, size), self.picture(gradient, size))

    def gradient_request(self, model: nn.Module) -> None:
        """Return None: no other method has these rules."""

    def pass_rules(self, model: nn.Module) -> BackwardRules:
        """Return the rules, and those of the user."""
        require_python_model(model, type(self).__name__)
        settings = AttnLRPRules(self.softmax, self.conv_gamma, self.linear_gamma)
        every_rule = {**attn_lrp_rules(settings), **(self.rules or {})}
        return BackwardRules(
            every_rule,
            method=type(self).__name__,
            strict=False,
            only_torch=not self.rules,
            check=refuse_nonlinear,
        )


attn_lrp = map_function(AttnLRP)
