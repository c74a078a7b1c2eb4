"""How a method plays the pointing game: what it may know, and how its map becomes a point."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

PointingPreset: TypeAlias = Literal["torchray"]
"""``"torchray"``: RISE and extremal perturbation exactly as in the published benchmark."""


@dataclass(frozen=True)
class PointingSetup:
    """What the settings of a method may depend on.

    Attributes:
        layer: name of the model's layer for methods that explain activations; None for the last one
            with a spatial output.
        excitation_layer: layer at which excitation backprop stops; ``""`` for the image.
        contrast_layer: layer at which its contrastive form subtracts; None for the classifier's
            input.
        areas: of masks, fractions of the picture.
        num_masks: how many random masks; None for the method's default.
        multi_label: whether a picture can hold several classes, so that a model's scores are logits
            of a sigmoid each.
        preset: see :data:`PointingPreset`.
    """

    layer: str | None = None
    excitation_layer: str = ""
    contrast_layer: str | None = None
    areas: tuple[float, ...] = (0.1,)
    num_masks: int | None = None
    multi_label: bool = False
    preset: PointingPreset | None = None


@dataclass(frozen=True)
class PointingStyle:
    """What is done around a method in the published game.

    Attributes:
        smooth: sigma of the blur of the map at the picture's size, as a fraction of a side.
        smooth_side: which side that is.
        square: whether the method sees pictures that are resized to a square.
        whole: whether it explains the score of the picture as a whole, not of all places.
    """

    smooth: float = 0.0
    smooth_side: Literal["longer", "shorter"] = "longer"
    square: bool = False
    whole: bool = False
