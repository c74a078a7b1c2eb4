"""Explain the samples once: the maps, and what the model says of the samples at that time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.from_function import FromFunction
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.attribution.shared_pass import shared_maps
from lightning_saliency.callbacks.explanation.areas import AreaMasks, maps_and_areas
from lightning_saliency.callbacks.samples.batch import class_indices
from lightning_saliency.errors import InputError
from lightning_saliency.network.score import class_logits, target_classes
from lightning_saliency.network.undisturbed import undisturbed

if TYPE_CHECKING:
    from lightning_saliency.callbacks.samples.sample_set import SampleSet

__all__ = [
    "Begun",
    "ClassChoice",
    "Explanation",
    "Method",
    "NamedMethod",
    "begin",
    "choices_of",
    "chosen_classes",
    "explain",
    "methods_of",
    "predict",
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
class Explanation:
    """What one method says about the samples at one time; all on the CPU.

    Attributes:
        saliency: (N, 1, H, W), float32.
        target: (N,), the explained classes.
        predicted: (N,), the classes that the model predicts.
        probability: (N,), float32, the explained classes' probabilities.
        log_probability: (N,), float32, their natural logarithms.
        areas: what extremal perturbation found for each area; None for other methods.
    """

    saliency: Tensor
    target: Tensor
    predicted: Tensor
    probability: Tensor
    log_probability: Tensor
    areas: AreaMasks | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Explanation:
        """Return the same with all tensors, of which the first dimension is N, changed alike."""
        return Explanation(
            change(self.saliency),
            change(self.target),
            change(self.predicted),
            change(self.probability),
            change(self.log_probability),
            self.areas and self.areas.each(change),
        )


@dataclass(frozen=True)
class Begun:
    """What the methods of one explanation have in common.

    Attributes:
        model: that is explained.
        images: (N, C, H, W), on its device.
        logits: (N, classes), the model's on them, float32.
        targets: for each choice of classes (N,).
        maps: by the places of method and choice, (N, 1, H, W), what could be explained together.
    """

    model: nn.Module
    images: Tensor
    logits: Tensor
    targets: Sequence[Tensor]
    maps: Mapping[tuple[int, int], Tensor]


def methods_of(method: object) -> list[NamedMethod]:
    """Return the method or methods that a user gave, with their names.

    Args:
        method: an :class:`AttributionMethod`, a callable (model, image, target) -> (N, 1, H, W),
            or a list of these.

    Raises:
        InputError: it is neither, or two have the same name.
    """
    given = list(method) if isinstance(method, (list, tuple)) else [method]
    if not given:
        raise InputError("Expected at least one attribution method, got an empty list.")
    named = []
    for entry in given:
        if isinstance(entry, type) and issubclass(entry, AttributionMethod):
            raise InputError(
                f"Expected a method with its settings, got the class {entry.__name__}. Add "
                f"parentheses: {entry.__name__}()."
            )
        if isinstance(entry, AttributionMethod):
            named.append(NamedMethod(entry.name, entry))
        elif callable(entry):
            name = getattr(entry, "__name__", type(entry).__name__).strip("<>")
            named.append(NamedMethod(name, FromFunction(entry)))
        else:
            raise InputError(
                "Expected an attribution method such as GradCAM(), a callable (model, image, "
                f"target) -> maps, or a list of these, got {entry!r}."
            )
    names = [entry.name for entry in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"Expected methods of different names in one callback, got '{twice[0]}' twice; their "
            "tags would be the same. Put the second in a callback of its own with name=."
        )
    return named


def choices_of(target: object) -> list[ClassChoice]:
    """Return the classes to explain that a user gave as ``target``.

    Args:
        target: "label", "predicted", a class index, or a pair of "label" and "predicted".

    Raises:
        InputError: it is none of these.
    """
    given: Sequence[Any] = target if isinstance(target, (list, tuple)) else [target]
    for entry in given:
        is_index = isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0
        if not is_index and entry not in ("label", "predicted"):
            raise InputError(
                "Expected target to be 'label', 'predicted', a class index, or the pair ('label', "
                f"'predicted'), got {target!r}."
            )
    if not given or len(set(given)) != len(given):
        raise InputError(f"Expected different targets, got {target!r}.")
    return list(given)


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return the model's logits (N, classes) on ``images``, float32.

    Args:
        model: in any state; it is not changed.
        images: (N, C, H, W), on the model's device.

    Raises:
        ModelError: the model returns no logits.
    """
    with undisturbed(model), torch.no_grad():
        return class_logits(model(images.clone())).detach().float()


def begin(
    model: nn.Module,
    methods: Sequence[AttributionMethod],
    samples: SampleSet,
    choices: Sequence[ClassChoice],
) -> Begun:
    """Do what the methods have in common.

    Methods that can share passes do, also with the one that the probabilities come from; see
    :func:`~lightning_saliency.attribution.shared_pass.shared_maps`.

    Args:
        model: in any state; it is not changed.
        methods: compute the maps.
        samples: on the model's device.
        choices: of the classes that are explained.

    Raises:
        SaliencyError: the model returns no logits, or the labels are no classes of it.
    """

    def choose(logits: Tensor) -> list[Tensor]:
        return [chosen_classes(samples, logits, choice) for choice in choices]

    shared = shared_maps(methods, model, samples.images, choose)
    logits = shared.logits.float()
    return Begun(model, samples.images, logits, choose(logits), shared.maps)


def explain(
    begun: Begun,
    method: AttributionMethod,
    place: tuple[int, int],
    which: slice = slice(None),
    while_explaining: AbstractContextManager[object] | None = None,
) -> Explanation:
    """Explain samples by one method, for one choice of classes.

    Args:
        begun: what all methods have in common.
        method: computes the maps, unless they are there.
        place: of the method and of the choice.
        which: of the samples; all by default.
        while_explaining: the context in which a method explains alone.

    Raises:
        SaliencyError: the method does not apply.
    """
    logits, target = begun.logits[which], begun.targets[place[1]][which]
    saliency, areas = begun.maps.get(place) if which == slice(None) else None, None
    if saliency is None:
        with while_explaining or nullcontext():
            saliency, areas = maps_and_areas(method, begun.model, begun.images[which], target)
    return Explanation(
        saliency=saliency.float().cpu(),
        target=target.cpu(),
        predicted=logits.argmax(1).cpu(),
        probability=logits.softmax(1).gather(1, target[:, None]).squeeze(1).cpu(),
        log_probability=logits.log_softmax(1).gather(1, target[:, None]).squeeze(1).cpu(),
        areas=areas,
    )


def chosen_classes(samples: SampleSet, logits: Tensor, choice: ClassChoice) -> Tensor:
    """Return the classes to explain, int64, shape (N,), on the logits' device.

    Args:
        samples: with labels, if these are chosen.
        logits: (N, classes), the model's on these samples.
        choice: "label", "predicted", or one class for all.

    Raises:
        InputError: there are no labels, or they are no classes of the model.
    """
    if choice == "label":
        labels = class_indices(samples.labels, "the validation samples")
        return target_classes(logits, labels)
    return target_classes(logits, choice)
