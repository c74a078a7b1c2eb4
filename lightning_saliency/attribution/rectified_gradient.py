"""What guided backprop and DeconvNet share: a gradient with another backward rule for ReLU."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lightning_saliency.attribution.gradient import gradient_map
from lightning_saliency.attribution.guard import require_python_model
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.network.backward_rules import BackwardRules, Rules
from lightning_saliency.network.grid import fold
from lightning_saliency.network.layer_gradient import layer_gradient
from lightning_saliency.network.relu_rules import NO_RULE

if TYPE_CHECKING:
    from typing_extensions import Self

    from lightning_saliency.network.score import Target

__all__ = ["RectifiedGradient"]


@dataclass(frozen=True)
class RectifiedGradient(AttributionMethod):
    """The largest absolute derivative over the channels, with a rule of its own for ReLU.

    Args:
        saliency_layer: see :class:`~lightning_saliency.attribution.gradient.Gradient`.
        rules: more rules, or other ones, see
            :data:`~lightning_saliency.network.backward_rules.Rules`.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    saliency_layer: str = ""
    # Functions have neither a lasting repr nor a dict a hash; equal methods still hash equally.
    rules: Rules | None = field(default=None, kw_only=True, repr=False, hash=False)

    @staticmethod
    @abstractmethod
    def relu_rules() -> Rules:
        """Return the method's rules for ReLU."""

    def attribute(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return the maps (N, 1, H, W); see :meth:`AttributionMethod.attribute`."""
        method = type(self).__name__
        require_python_model(model, method)
        every_rule = {**self.relu_rules(), **(self.rules or {})}
        rules = BackwardRules(every_rule, refused=NO_RULE, method=method)
        _, gradient = layer_gradient(model, image, target, self.saliency_layer, rules)
        return gradient_map(fold(gradient, (image.shape[2], image.shape[3])))

    def _prepare(self, model: nn.Module, image: Tensor) -> Self:
        # One image shows whether the layer runs once and whether there are ReLUs, and only such.
        self.attribute(model, image[:1], "predicted")
        return self
