"""Make an attribution method of any function, under the guards that all methods have."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.network.score import Target
from lightning_saliency.network.undisturbed import keep_weights_held_by

__all__ = ["FromFunction"]


@dataclass(frozen=True)
class FromFunction(AttributionMethod):
    """A user's own function as a method.

    Args:
        function: from (model, image, target) to maps (N, 1, h, w); the model is in eval mode and
            frozen, gradients are recorded, and the image is a copy that needs no gradient yet.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name: ClassVar[str] = "from_function"
    # It may compare the images with one another.
    _divisible: ClassVar[bool] = False
    function: Callable[[nn.Module, Tensor, Target], Tensor]

    def attribute(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return what the function returns; see :meth:`AttributionMethod.attribute`."""
        keep_weights_held_by(self.function)
        return self.function(model, image, target)
