"""What the gradient methods share: a map made of one layer's output and gradient."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.network.layer_gradient import layer_gradient
from lightning_saliency.network.shared_pass import Reading

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from lightning_saliency.network.score import Target

__all__ = ["GradientMethod"]


@dataclass(frozen=True)
class GradientMethod(AttributionMethod):
    """A method whose map is a function of one layer's output and of a gradient there.

    A method says what it wants of a pass and what it makes of it. So one pass can serve several
    methods (:func:`~lightning_saliency.attribution.shared_maps.shared_maps`), and each can make
    its pass alone. A method that overrides :meth:`attribute` always makes its own.
    """

    @abstractmethod
    def layer_of(self, model: nn.Module, image: Tensor) -> str:
        """Return the name of the layer; ``""`` for the image.

        Args:
            model: in eval mode, with frozen parameters.
            image: (N, C, H, W).
        """

    @abstractmethod
    def map_of(self, activation: Tensor, gradient: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the maps (N, 1, h, w).

        Args:
            activation: what the layer put out, of whatever shape.
            gradient: of the same shape.
            size: (height, width) of the image.
        """

    def reading(self, model: nn.Module, image: Tensor) -> Reading | None:
        """Return what the map is made of; None if it takes a pass that no other method can share.

        Args:
            model: in eval mode, with frozen parameters.
            image: (N, C, H, W).
        """
        return Reading(self.layer_of(model, image))

    def pass_rules(self, model: nn.Module) -> AbstractContextManager[object] | None:
        """Return the context in which this method's own forward pass runs; None for none.

        Args:
            model: in eval mode, with frozen parameters.
        """
        return None

    def attribute(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return the maps (N, 1, h, w); see :meth:`AttributionMethod.attribute`."""
        layer, size = self.layer_of(model, image), (image.shape[2], image.shape[3])
        activation, gradient = layer_gradient(model, image, target, layer, self.pass_rules(model))
        return self.map_of(activation, gradient, size)
