"""What comes out of an explanation, and the names under which it is logged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from lightning_saliency.attribution.extras import Extras
from lightning_saliency.attribution.method import AttributionMethod

__all__ = [
    "ClassChoice",
    "Explanation",
    "Method",
    "NamedMethod",
    "Series",
    "series_in",
    "value_tag",
]

Method: TypeAlias = AttributionMethod | Callable[[nn.Module, Tensor, Any], Tensor]
"""A method, or a function (model, image, target) -> maps (N, 1, H, W)."""

ClassChoice: TypeAlias = Literal["label", "predicted"] | int
"""The class that is explained: each sample's label, the class predicted now, or one class."""


@dataclass(frozen=True)
class NamedMethod:
    """A method and the name under which its maps are logged."""

    name: str
    method: AttributionMethod


@dataclass(frozen=True)
class Series:
    """What is followed over a run: the maps of one method for one choice of class.

    Attributes:
        name: as it stands in the tags, such as ``"grad_cam"`` or ``"grad_cam/predicted"``.
        method: makes the maps.
        prefix: stands before all tags of the callback.
    """

    name: str
    method: AttributionMethod
    prefix: str = ""

    def tag(self, what: str) -> str:
        """Return the tag of a number, such as ``"saliency_drift/grad_cam/previous/ssim"``.

        Args:
            what: for instance ``"drift/previous/ssim"``.
        """
        return self.prefix + value_tag(self.name, what)


@dataclass(frozen=True)
class Explanation:
    """What one method says about the samples at one time; all on the CPU.

    Attributes:
        saliency: (N, 1, H, W), float32.
        target: (N,), int64, the explained classes.
        predicted: (N,), int64, the classes that the model predicts.
        probability: (N,), float32, the explained classes' probabilities.
        log_probability: (N,), float32, their natural logarithms.
        extras: what the method found besides maps; None for most methods.
    """

    saliency: Tensor
    target: Tensor
    predicted: Tensor
    probability: Tensor
    log_probability: Tensor
    extras: Extras | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Explanation:
        """Return the same with all tensors, of which the first dimension is N, changed alike."""
        return Explanation(
            change(self.saliency),
            change(self.target),
            change(self.predicted),
            change(self.probability),
            change(self.log_probability),
            self.extras and self.extras.each(change),
        )


def value_tag(series: str, what: str) -> str:
    """Return the tag of a number, such as ``"saliency_drift/grad_cam/previous/ssim"``.

    Args:
        series: for instance ``"grad_cam"``.
        what: for instance ``"drift/previous/ssim"``.
    """
    kind, _, rest = what.partition("/")
    return f"saliency_{kind}/{series}/{rest}"


def series_in(tag: str, prefix: str, known: Iterable[str]) -> str | None:
    """Return the series that stands in the tag of a number, None if it is none of the known.

    Args:
        tag: of a number.
        prefix: that stands before all tags of the callback.
        known: the callback's series.
    """
    if not tag.startswith(f"{prefix}saliency_"):
        return None
    rest = tag.removeprefix(f"{prefix}saliency_").partition("/")[2]
    return max((each for each in known if rest.startswith(f"{each}/")), key=len, default=None)
