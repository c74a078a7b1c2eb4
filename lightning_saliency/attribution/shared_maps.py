"""Several methods, several targets, one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.gradient_method import GradientMethod
from lightning_saliency.attribution.guard import guarded
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.network.batching import Batches
from lightning_saliency.network.score import class_logits
from lightning_saliency.network.sharded import is_sharded
from lightning_saliency.network.shared_pass import LayerReading, Reading, SharedPass

__all__ = ["SharedMaps", "shared_maps"]


@dataclass(frozen=True)
class SharedMaps:
    """What one forward pass gave.

    Attributes:
        logits: (N, classes), the model's on the images as they are, detached.
        maps: by the places of method and target in their lists, maps as the method's own call
            gives them, (N, 1, H, W). A pair that is missing is to be explained by that call.
    """

    logits: Tensor
    maps: dict[tuple[int, int], Tensor]


def shared_maps(
    methods: Sequence[AttributionMethod],
    model: nn.Module,
    image: Tensor,
    choose: Callable[[Tensor], Sequence[Tensor]],
) -> SharedMaps:
    """Explain with all methods that can share a pass, and return the logits of that pass.

    Gradient, Grad-CAM and linear approximation come from one backward pass, guided backprop and
    DeconvNet from one each; targets that are the same for all images are explained once. Maps are
    those of separate calls, to the last bit in every model that was tried; only the order in which
    a sum of three or more gradients is rounded may differ.

    Nothing fails here that concerns one method alone: its maps are missing then. So are those of
    all methods of other kinds, of methods with rules of the user's own, and of sharded models,
    whose weights serve one backward pass only.

    Args:
        methods: in any number.
        model: any module, in whatever state; it is not changed.
        image: (N, C, H, W), see :meth:`AttributionMethod.__call__`.
        choose: from the logits (N, classes) to the targets, each int64, (N,). Called only if
            something is shared.

    Raises:
        InputError: the images cannot be used.
        ModelError: the model returns no logits.
        Exception: whatever ``choose`` raises.
    """
    with guarded(model, image) as images:
        shared, readings = _recorded(methods, model, images)
        if shared is None:
            with torch.no_grad():
                parts = Batches(len(images), images.device).run(
                    lambda batch: class_logits(model(images[batch].clone())), len(images)
                )
                return SharedMaps(torch.cat(parts), {})
        logits = class_logits(shared.output).detach()
        maps: dict[tuple[int, int], Tensor] = {}
        explained: list[Tensor] = []
        for column, target in enumerate(choose(logits)):
            same = next(
                (i for i, other in enumerate(explained) if torch.equal(other, target)), None
            )
            explained.append(target)
            found = shared.read(target) if same is None else {}
            for row, reading in readings.items():
                if same is not None and (row, same) in maps:
                    maps[row, column] = maps[row, same]
                elif reading in found:
                    with suppress(Exception):
                        maps[row, column] = _map(methods[row], found[reading], image)
        return SharedMaps(logits, maps)


def _recorded(
    methods: Sequence[AttributionMethod], model: nn.Module, images: Tensor
) -> tuple[SharedPass | None, dict[int, Reading]]:
    """Return a pass, and by the methods' places what each wants of it."""
    readings: dict[int, Reading] = {}
    if not is_sharded(model):
        for row, method in enumerate(methods):
            with suppress(Exception):
                reading = _reading(method, model, images)
                if reading is not None:
                    readings[row] = reading
    shared = None
    if readings:
        with suppress(Exception):
            shared = SharedPass(model, images.clone(), readings.values())
    return shared, readings


def _reading(method: AttributionMethod, model: nn.Module, images: Tensor) -> Reading | None:
    # A method that does anything else in its call, or makes its maps in another way, does so alone.
    kind = type(method)
    if (
        isinstance(method, GradientMethod)
        and kind.__call__ is AttributionMethod.__call__
        and kind.attribute is GradientMethod.attribute
    ):
        return method.reading(model, images)
    return None


def _map(method: AttributionMethod, read: LayerReading, image: Tensor) -> Tensor:
    if not isinstance(method, GradientMethod):
        raise TypeError(type(method))
    activation, gradient = read
    saliency = method.map_of(activation, gradient, (image.shape[2], image.shape[3]))
    return method._finished(saliency, image)
