"""What Grad-CAM and linear approximation share: a map made of one layer's output and gradient."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lightning_saliency.attribution.gradient_method import GradientMethod
from lightning_saliency.network.grid import Layout, fold
from lightning_saliency.network.spatial_layer import last_spatial_layer

if TYPE_CHECKING:
    from typing_extensions import Self


__all__ = ["LayerMethod"]


@dataclass(frozen=True)
class LayerMethod(GradientMethod):
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

    def layer_of(self, model: nn.Module, image: Tensor) -> str:
        """Return ``saliency_layer``, or look for the layer."""
        return self.saliency_layer or last_spatial_layer(model, image)

    def map_of(self, activation: Tensor, gradient: Tensor, size: tuple[int, int]) -> Tensor:
        """Return :meth:`layer_map` of the layer, laid out as a picture."""
        return self.layer_map(
            fold(activation, size, self.layout), fold(gradient, size, self.layout)
        )

    def _prepare(self, model: nn.Module, image: Tensor) -> Self:
        # One pass with the predicted class shows whether the layer runs once and has a grid.
        settled = replace(self, saliency_layer=self.layer_of(model, image))
        settled.attribute(model, image[:1], "predicted")
        return settled
