"""What excitation backprop and its contrastive form share."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lightning_saliency.attribution.guard import require_python_model
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.network.backward_rules import Rules
from lightning_saliency.network.grid import fold

if TYPE_CHECKING:
    from typing_extensions import Self

    from lightning_saliency.network.score import Target

__all__ = ["ExcitationMethod", "warn_of_loss"]

# The sums of the maps were measured to be off by up to 1e-5 on torchvision's models in float32,
# where every function has a rule; where one has none, they are off by tenths.
_SUM_TOLERANCE = 0.02


@dataclass(frozen=True)
class ExcitationMethod(AttributionMethod):
    """What both forms share: which layer, which rules, which models.

    Args:
        saliency_layer: name of the layer at which the signal is looked at; ``""`` for the image.
        rules: more rules, or other ones, see
            :data:`~lightning_saliency.network.backward_rules.Rules`.
    """

    saliency_layer: str = ""
    # Functions have neither a lasting repr nor a dict a hash; equal methods still hash equally.
    rules: Rules | None = field(default=None, kw_only=True, repr=False, hash=False)

    def attribute(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return the maps (N, 1, h, w); see :meth:`AttributionMethod.attribute`."""
        require_python_model(model, type(self).__name__)
        size = (image.shape[2], image.shape[3])
        return self.signal_map(fold(self.signal(model, image, target), size))

    @abstractmethod
    def signal(self, model: nn.Module, image: Tensor, target: Target) -> Tensor:
        """Return the signal at the layer, of its shape.

        Args:
            model: in eval mode, with frozen parameters.
            image: (N, C, H, W); a copy that the model may write to.
            target: see :class:`AttributionMethod`.
        """

    @staticmethod
    @abstractmethod
    def signal_map(signal: Tensor) -> Tensor:
        """Return the map (N, 1, h, w) from a signal (N, K, h, w)."""

    def _prepare(self, model: nn.Module, image: Tensor) -> Self:
        # One image shows whether the layers run once and whether all activations have rules.
        self.attribute(model, image[:1], "predicted")
        return self


def warn_of_loss(signal: Tensor) -> None:
    """Warn if a part of the signal was lost on the way, or made up.

    Args:
        signal: (N, ...), all of what arrived from a signal of 1 for each image.
    """
    sums = signal.flatten(1).sum(1)
    worst = sums[(sums - 1).abs().argmax()]
    if not bool((worst - 1).abs() <= _SUM_TOLERANCE):
        warnings.warn(
            f"Expected excitation maps that sum to 1, got a sum of {float(worst):.3g}. The model "
            "has functions without a rule for excitation backprop, such as products of "
            "activations, or units that nothing excites; the map is not the published one.",
            SaliencyWarning,
            stacklevel=2,
        )
