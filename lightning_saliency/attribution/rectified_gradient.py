"""What guided backprop and DeconvNet share: a gradient with another backward rule for ReLU."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lightning_saliency.attribution.gradient import gradient_map
from lightning_saliency.attribution.gradient_method import GradientMethod
from lightning_saliency.attribution.guard import require_python_model
from lightning_saliency.network.backward_rules import BackwardRules, Rules
from lightning_saliency.network.grid import fold
from lightning_saliency.network.relu_derivatives import ReluRule
from lightning_saliency.network.relu_rules import NO_RULE, ReluChoice
from lightning_saliency.network.shared_pass import Reading

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RectifiedGradient"]


@dataclass(frozen=True)
class RectifiedGradient(GradientMethod):
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
    def relu_rule() -> ReluRule:
        """Return how the method hands a gradient down through ReLU."""

    def layer_of(self, model: nn.Module, image: Tensor) -> str:
        """Return ``saliency_layer``."""
        return self.saliency_layer

    def map_of(self, activation: Tensor, gradient: Tensor, size: tuple[int, int]) -> Tensor:
        """Return :func:`gradient_map` of the layer."""
        return gradient_map(fold(gradient, size))

    def pass_rules(self, model: nn.Module) -> BackwardRules:
        """Return the rules for ReLU, and those of the user."""
        method = type(self).__name__
        require_python_model(model, method)
        every_rule = {**ReluChoice(self.relu_rule()).rules(), **(self.rules or {})}
        return BackwardRules(every_rule, refused=NO_RULE, method=method)

    def reading(self, model: nn.Module, image: Tensor) -> Reading | None:
        """Return the gradient by the method's rule; None where there are rules of the user."""
        require_python_model(model, type(self).__name__)
        return None if self.rules else Reading(self.saliency_layer, self.relu_rule())

    def _prepare(self, model: nn.Module, image: Tensor) -> Self:
        # One image shows whether the layer runs once and whether there are ReLUs, and only such.
        self.attribute(model, image[:1], "predicted")
        return self
