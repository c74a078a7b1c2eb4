"""How each method plays the pointing game: its settings, the score, how its map is smoothed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from torch import Tensor, nn

from lightning_saliency import attribution
from lightning_saliency.attribution import AttributionMethod
from lightning_saliency.attribution.pointing import PointingPreset, PointingSetup
from lightning_saliency.benchmark.pointing_data import PointingData
from lightning_saliency.benchmark.pointing_models import PointingModel
from lightning_saliency.errors import InputError
from lightning_saliency.image.blur import gaussian_blur
from lightning_saliency.image.saliency_map import resize


@dataclass(frozen=True)
class PointingScore:
    """A target for attribution methods: each image's score of its class, over all places.

    A fully convolutional model gives a score for each place. Their soft maximum is explained, the
    logarithm of the sum of their exponentials: its derivative with respect to the scores is their
    softmax over the places. So the signal that is sent back sums to 1 and starts where the class is
    found, as in Zhang et al. (Top-down neural attention by excitation backprop, ECCV 2016,
    arXiv:1608.00507). With one place it is the class's logit.

    Args:
        classes: one for each image of the batch.

    Example:
        >>> import torch
        >>> scores = torch.zeros(1, 2, 1, 3, requires_grad=True)
        >>> score = PointingScore([1])(scores + torch.tensor([0.0, 0.0, 9.0]))
        >>> torch.autograd.grad(score.sum(), scores)[0][0, 1].round(decimals=3)
        tensor([[0., 0., 1.]])
    """

    classes: Sequence[int]

    def __call__(self, scores: Tensor) -> Tensor:
        """Return one score for each image.

        Args:
            scores: (N, classes) or (N, classes, h, w), what the model returned.

        Returns:
            (N,).

        Raises:
            InputError: the model returned something else, or has too few classes.
        """
        if not isinstance(scores, Tensor) or scores.dim() not in (2, 4):
            came = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(
                "Expected the model to return scores (N, classes) or (N, classes, h, w) for the "
                f"pointing game, got {came}."
            )
        if len(scores) != len(self.classes) or max(self.classes) >= scores.shape[1]:
            raise InputError(
                f"Expected scores of {len(self.classes)} images for the classes "
                f"{list(self.classes)}, got a tensor of shape {tuple(scores.shape)}."
            )
        own = scores[list(range(len(scores))), list(self.classes)]
        return own.flatten(1).logsumexp(1) if own.dim() == 3 else own


CENTER = "center"
"""The baseline that always points at the picture's center."""

METHODS = (CENTER, *(method.name for method in attribution.METHODS))
"""The methods of the table, in its order."""


@dataclass(frozen=True)
class Recipe:
    """A method, and what is done around it.

    Attributes:
        name: of the method, as shown in the table.
        method: from model, images and targets to maps; None for the center of the picture.
        smooth: sigma of the blur of the map at the picture's size, as a fraction of a side.
        smooth_side: which side that is.
        square: whether the method sees pictures that are resized to a square.
        whole: whether it judges pictures as a whole, see :class:`PointingModel`; its target is then
            the class, and the mean of the scores of all places.
    """

    name: str
    method: AttributionMethod | None
    smooth: float = 0.0
    smooth_side: Literal["longer", "shorter"] = "longer"
    square: bool = False
    whole: bool = False

    def maps(
        self, module: nn.Module, images: Tensor, classes: Sequence[int], size: tuple[int, int]
    ) -> Tensor:
        """Explain a class of each image.

        Args:
            module: the model.
            images: (N, 3, h, w), as the model takes them.
            classes: one for each image.
            size: (height, width) of the pictures that they came from.

        Returns:
            (N, 1, height, width).

        Raises:
            InputError: the recipe has no method.
        """
        if self.method is None:
            raise InputError("Expected a method that makes maps, got the center of the picture.")
        target = list(classes) if self.whole else PointingScore(tuple(classes))
        maps = resize(self.method(module, images, target), size)
        side = max(size) if self.smooth_side == "longer" else min(size)
        padding = "replicate" if self.smooth_side == "longer" else "constant"
        return gaussian_blur(maps, self.smooth * side, padding, truncate=4)


def pointing_recipe(
    name: str, model: PointingModel, data: PointingData, preset: PointingPreset | None = None
) -> Recipe:
    """Return the recipe of a method.

    Layers, smoothing and resizing are those of the published benchmark: derivatives are blurred by
    0.02 of the longer side, the masks of extremal perturbation by 0.09 of the shorter one, and RISE
    sees squares. By default RISE and extremal perturbation are this package's, at a fraction of the
    cost.

    Args:
        name: one of :data:`METHODS`.
        model: says at which layers methods look.
        data: says of which areas masks are, and whether classes exclude one another.
        preset: see :data:`PointingPreset`.

    Raises:
        InputError: there is no such method or preset.
    """
    if preset not in (None, "torchray"):
        raise InputError(f"Expected preset to be None or 'torchray', got {preset!r}.")
    if name == CENTER:
        return Recipe(CENTER, None)
    method = next((method for method in attribution.METHODS if method.name == name), None)
    if method is None:
        raise InputError(f"Expected a method out of {', '.join(METHODS)}, got '{name}'.")
    layers = model.layers
    setup = PointingSetup(
        layers.grad_cam,
        layers.excitation,
        layers.contrast,
        data.areas,
        data.rise_masks,
        data.multi_label,
        preset,
    )
    return Recipe(name, method.for_pointing_game(setup), **asdict(method.pointing))
