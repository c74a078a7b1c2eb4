"""What a method finds besides its maps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self


class MaskPanel(NamedTuple):
    """Masks of one image, to be drawn below its map.

    Attributes:
        masks: (A, H, W), in [0, 1].
        areas: A fractions of the image.
        scores: A probabilities of the explained class; NaN where there is none.
        deleted: whether the masks mark what is removed, not what is kept.
    """

    masks: Tensor
    areas: Sequence[float]
    scores: Sequence[float]
    deleted: bool


class Extras(ABC):
    """What a method found besides the maps of N images."""

    @abstractmethod
    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the same with all tensors, of which the first dimension is N, changed alike.

        Args:
            change: from (N, ...), for instance to the same on another device, or to fewer images.
        """

    @abstractmethod
    def numbers(self) -> dict[str, float]:
        """Return means over the images by name; NaN where no image has a value.

        The names are those of :meth:`~.method.AttributionMethod.extra_names`.
        """

    def mask_panel(self, index: int) -> MaskPanel | None:
        """Return the masks of an image; None if there are none to draw.

        Args:
            index: of the image.
        """
        return None


def joined(parts: Sequence[Extras]) -> Extras:
    """Return what was found for several sets of images as if for all of them at once.

    Args:
        parts: at least one, all of one method.
    """
    tensors: list[list[Tensor]] = []

    def note(tensor: Tensor) -> Tensor:
        tensors[-1].append(tensor)
        return tensor

    for part in parts:
        tensors.append([])
        part.each(note)
    whole = iter([torch.cat(same) for same in zip(*tensors, strict=True)])
    return parts[0].each(lambda _: next(whole))


@dataclass(frozen=True)
class Attribution:
    """What a method returns for N images.

    Attributes:
        saliency: (N, 1, H, W), the maps.
        extras: what else it found; None for most methods.
    """

    saliency: Tensor
    extras: Extras | None = None
