"""What Grad-CAM and linear approximation share: a map made of one layer's output and gradient."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.network.grid import Layout, fold
from lightning_saliency.network.layer_gradient import layer_gradient
from lightning_saliency.network.spatial_layer import last_spatial_layer

if TYPE_CHECKING:
    from typing_extensions import Self

    from lightning_saliency.network.score import Target

__all__ = ["LayerMethod"]


@dataclass(frozen=True)
class LayerMethod(AttributionMethod):
    """A method whose map is a function of one layer's activation and gradient.

    Args:
        saliency_layer: name of the layer whose output is explained. None takes the last layer with
            a spatial output; looking for it costs a forward and a backward pass of one image each
            time, which :meth:`prepare` spares (callbacks call it once).
        layout: how the layer's output is laid out, see
            :data:`~lightning_saliency.network.grid.Layout`; ``"auto"`` is right for convolutional
            networks and for torchvision's vision transformers.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    saliency_layer: str | None = None
    layout: Layout = "auto"

    @staticmethod
    @abstractmethod
    def layer_map(activation: Tensor, gradient: Tensor) -> Tensor:
        """Return the map (N, 1, h, w) from activation and gradient, (N, K, h, w) both."""

    def attribute(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return the maps (N, 1, h, w); see :meth:`AttributionMethod.attribute`."""
        layer = self.saliency_layer or last_spatial_layer(model, image)
        size = (image.shape[2], image.shape[3])
        activation, gradient = layer_gradient(model, image, target, layer)
        return self.layer_map(
            fold(activation, size, self.layout), fold(gradient, size, self.layout)
        )

    def _prepare(self, model: nn.Module, image: Tensor) -> Self:
        layer = self.saliency_layer or last_spatial_layer(model, image)
        # One pass with the predicted class shows whether the layer runs once and has a grid.
        settled = replace(self, saliency_layer=layer)
        settled.attribute(model, image[:1], "predicted")
        return settled
