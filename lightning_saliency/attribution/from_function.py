"""A user's function as an attribution method, with the checks and the isolation of all methods."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.errors import InputError
from lightning_saliency.network.isolation.snapshot import preserved_objects
from lightning_saliency.network.isolation.undisturbed import keep_weights_held_by
from lightning_saliency.network.score import Target


@dataclass(frozen=True)
class FromFunction(AttributionMethod):
    """A user's own function as a method.

    Args:
        function: from (model, image, target) to maps (N, 1, h, w); the model is in eval mode and
            frozen, gradients are recorded, and the image is a copy. It requires no gradient, so
            that it can be written to; a function that fails for want of one gets an image that
            does.
        resize: see :class:`AttributionMethod`, as for ``resize_mode`` and ``smooth``.
    """

    name = "from_function"
    # It may compare the images with one another.
    _divisible = False
    function: Callable[[nn.Module, Tensor, Target], Tensor]

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            InputError: the function is a class, or another setting is out of its range.
        """
        super().__post_init__()
        if isinstance(self.function, type):
            raise InputError(
                "Expected a function from (model, image, target) to maps, or a method with its "
                f"settings, got the class {self.function.__name__}. Make one: "
                f"{self.function.__name__}(...)."
            )

    @property
    def label(self) -> str:
        """The function's own name."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def attribute(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return what the function returns; see :meth:`AttributionMethod.attribute`."""
        keep_weights_held_by(self.function)
        original = image.clone()
        try:
            return self.function(model, image, target)
        except RuntimeError as error:
            if "require grad" not in str(error):
                raise
        return self.function(model, original.requires_grad_(), target)

    def _prepare(self, model: nn.Module, image: Tensor, target: Target) -> Self:
        # As in a run, which has a class for each image.
        classes = torch.zeros(len(image), dtype=torch.long, device=image.device)
        # What the function counts or keeps is as if it had not been tried.
        with preserved_objects(self.function):
            saliency = self.attribute(model, image, target if callable(target) else classes)
        self._finished(saliency, image)
        return self
