"""A user's function as an attribution method, with the checks and the isolation of all methods."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.network.isolation.undisturbed import keep_weights_held_by
from lightning_saliency.network.score import Target


@dataclass(frozen=True)
class FromFunction(AttributionMethod):
    """A user's own function as a method.

    Args:
        function: from (model, image, target) to maps (N, 1, h, w); the model is in eval mode and
            frozen, gradients are recorded, and the image is a copy that needs no gradient yet.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name = "from_function"
    # It may compare the images with one another.
    _divisible = False
    function: Callable[[nn.Module, Tensor, Target], Tensor]

    def attribute(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return what the function returns; see :meth:`AttributionMethod.attribute`."""
        keep_weights_held_by(self.function)
        return self.function(model, image, target)
