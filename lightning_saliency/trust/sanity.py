"""Do maps depend on the weights that they explain? Randomize layers, and compare the maps.

Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim. Sanity checks for saliency maps. NeurIPS 2018,
arXiv:1810.03292. What is known of the methods, and of the limits of the check, is in
:mod:`~lightning_saliency.trust.verdicts`.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.from_function import FromFunction
from lightning_saliency.attribution.guard import check_image, check_model
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.errors import InputError, SaliencyWarning
from lightning_saliency.metrics.map_similarity import MapMeasure, spearman, ssim, top10_iou
from lightning_saliency.metrics.map_statistics import canonical
from lightning_saliency.network.isolation.undisturbed import undisturbed
from lightning_saliency.network.layers import find_layer, layer_names
from lightning_saliency.network.random_weights import (
    copy_of,
    layers_with_weights,
    preserved_weights,
    randomize,
)
from lightning_saliency.network.score import Target, class_logits, target_classes

RandomizationOrder: TypeAlias = Literal["cascading", "independent"]
"""``"cascading"``: from the last layer down, and what is random stays random; ``"independent"``:
one part at a time, the others with their trained weights."""

SANITY_MEASURES: tuple[MapMeasure, ...] = (spearman, ssim, top10_iou)


@dataclass(frozen=True)
class SanityCheck:
    """How alike the maps of a model and of the model with random weights are.

    Attributes:
        order: in which the weights were made random.
        stages: for each stage the names of the layers that it made random, last layer first.
        similarity: for each measure (N, stages), float32, on the CPU: the similarity of each
            image's map to the one of the trained model; NaN where one of them is degenerate. The
            measures are ``spearman``, ``ssim`` and ``top10_iou`` (0, 0 and 0.05 for unrelated
            maps), of the maps with their sign; and, if some map has negative values,
            ``spearman_abs``, ``ssim_abs`` and ``top10_iou_abs`` of their magnitudes.
        maps: (N, stages + 1, H, W), float32, on the CPU: the trained model's, then each stage's.
    """

    order: RandomizationOrder
    stages: tuple[tuple[str, ...], ...]
    similarity: dict[str, Tensor] = field(repr=False)
    maps: Tensor = field(repr=False)

    @property
    def labels(self) -> list[str]:
        """A name for each stage: its only layer, or the layer that runs first in it."""
        return [names[-1] or "(model)" for names in self.stages]

    def means(self) -> dict[str, list[float]]:
        """Return each measure's mean over the images, for each stage; NaN if none has a value."""
        return {name: values.nanmean(0).tolist() for name, values in self.similarity.items()}


def sanity_check(
    model: nn.Module,
    method: AttributionMethod | Callable[[nn.Module, Tensor, Any], Tensor],
    image: Tensor,
    target: Target,
    order: RandomizationOrder = "cascading",
    layers: Sequence[str] | None = None,
    max_stages: int = 8,
    seed: int = 0,
) -> SanityCheck:
    """Explain the images while more and more layers, or one after another, have random weights.

    A map that stays the same does not show what the network has learned. The model itself is not
    changed: all is done on a deep copy, on the same device. Takes one explanation for each stage,
    and one more.

    Args:
        model: takes ``image`` and returns class scores; it must be possible to copy it.
        method: an attribution method, or a callable (model, image, target) -> (N, 1, H, W).
        image: (N, C, H, W), as the model takes it.
        target: what is explained; ``"predicted"`` is the trained model's prediction throughout.
        order: see :data:`RandomizationOrder`.
        layers: names of layers or blocks, in the order in which to make them random, each with all
            layers inside it; None for all layers with weights, in the reverse of the order in
            which they run.
        max_stages: without ``layers``, the largest number of stages: neighboring layers are put
            together.
        seed: of the random weights.

    Returns:
        The similarities and the maps.

    Raises:
        InputError: the images, the target or a setting cannot be used.
        LayerError: a layer does not exist.
        ModelError: the model cannot be copied, or has no weights.

    Example:
        >>> from lightning_saliency.attribution import Gradient
        >>> from lightning_saliency.benchmark import get_example_data
        >>> model, image, category, _ = get_example_data()
        >>> check = sanity_check(model, Gradient(), image, category, max_stages=2)
        >>> check.labels
        ['features.17', 'features.0']
    """
    check_image(image)
    check_model(model, image)
    return check_copy(copy_of(model), method, image, target, order, layers, max_stages, seed)


def check_copy(
    copy: nn.Module,
    method: AttributionMethod | Callable[[nn.Module, Tensor, Any], Tensor],
    image: Tensor,
    target: Target,
    order: RandomizationOrder = "cascading",
    layers: Sequence[str] | None = None,
    max_stages: int = 8,
    seed: int = 0,
) -> SanityCheck:
    """Do what :func:`sanity_check` does, on the model itself, which ends with random weights.

    Args:
        copy: the model; with the order ``"independent"`` its weights are restored.
        method: see :func:`sanity_check`, as for all that follow.
        image: (N, C, H, W).
        target: what is explained.
        order: see :data:`RandomizationOrder`.
        layers: names, in the order in which to make them random.
        max_stages: without ``layers``, the largest number of stages.
        seed: of the random weights.

    Raises:
        InputError: a setting cannot be used.
        LayerError: a layer does not exist.
        ModelError: the model has no weights.
    """
    if order not in get_args(RandomizationOrder):
        raise InputError(f"Expected order 'cascading' or 'independent', got {order!r}.")
    stages = _stages(copy, image, layers, max_stages)
    explain = method if isinstance(method, AttributionMethod) else FromFunction(method)
    target = _fixed_target(copy, image, target)
    maps = [_maps(explain, copy, image, target)]
    for names in stages:
        with preserved_weights(copy) if order == "independent" else nullcontext():
            randomize(copy, names, seed)
            maps.append(_maps(explain, copy, image, target))
    return SanityCheck(order, stages, dict(_similarity(maps)), torch.cat(maps, 1))


def _stages(
    model: nn.Module, image: Tensor, layers: Sequence[str] | None, max_stages: int
) -> tuple[tuple[str, ...], ...]:
    if isinstance(max_stages, bool) or not isinstance(max_stages, int) or max_stages < 1:
        raise InputError(f"Expected max_stages to be at least 1, got {max_stages!r}.")
    names = layers_with_weights(model, image[:1])[::-1]
    if not names:
        raise InputError(
            f"Expected a model with weights to make random, but {type(model).__name__} has none."
        )
    if layers is None:
        count = min(max_stages, len(names))
        ends = [round(len(names) * stage / count) for stage in range(count + 1)]
        return tuple(tuple(names[a:b]) for a, b in pairwise(ends))
    if isinstance(layers, str) or not layers:
        raise InputError(f"Expected a list of names of layers, got {layers!r}.")
    return tuple(_inside(model, names, name) for name in layers)


def _inside(model: nn.Module, names: Sequence[str], block: str) -> tuple[str, ...]:
    """Return those layers with weights that a block is or holds."""
    inside = set(find_layer(model, block).modules())
    known = {"": model, **layer_names(model)}
    found = tuple(name for name in names if known[name] in inside)
    if not found:
        raise InputError(f"Expected layers with weights, but '{block}' has none.")
    return found


def _fixed_target(model: nn.Module, image: Tensor, target: Target) -> Target:
    """Return the class that is predicted now in place of "predicted", which would change."""
    if not isinstance(target, str):
        return target
    with undisturbed(model), torch.no_grad():
        logits = class_logits(model(image.detach().clone()), len(image))
    return target_classes(logits, target)


def _maps(method: AttributionMethod, model: nn.Module, image: Tensor, target: Target) -> Tensor:
    with warnings.catch_warnings():
        # Warnings about a network with random weights are expected.
        warnings.simplefilter("ignore", SaliencyWarning)
        return method(model, image, target).detach().float().cpu()


def _similarity(maps: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    first, *others = (canonical(some) for some in maps)
    for measure in SANITY_MEASURES:
        yield measure.name, torch.stack([measure(other, first) for other in others], 1)
    if any(bool((some < 0).any()) for some in maps):
        for measure in SANITY_MEASURES:
            values = [measure(other.abs(), first.abs()) for other in others]
            yield f"{measure.name}_abs", torch.stack(values, 1)
