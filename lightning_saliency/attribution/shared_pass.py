"""Maps of several methods and targets from one forward pass."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.gradient_bases import GradientMethod
from lightning_saliency.attribution.guard import guarded
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.network.batching import Batches
from lightning_saliency.network.layer_gradient import GradientRequest, LayerGradient, SharedPass
from lightning_saliency.network.layers import is_sharded
from lightning_saliency.network.score import Target, class_logits

__all__ = ["SharedMaps", "shared_maps"]


@dataclass(frozen=True)
class SharedMaps:
    """What one forward pass gave.

    Attributes:
        logits: (N, classes), the model's on the images as they are, detached; what ``read`` gave.
        maps: by the places of method and target in their lists, maps as the method's own call
            returns them, (N, 1, H, W). A missing pair has to be explained by that call.
    """

    logits: Tensor
    maps: dict[tuple[int, int], Tensor]


def shared_maps(
    methods: Sequence[AttributionMethod],
    model: nn.Module,
    image: Tensor,
    choose: Callable[[Tensor], Sequence[Target]],
    read: Callable[[object, int], Tensor] = class_logits,
) -> SharedMaps:
    """Explain with all methods that can share a pass, and return the logits of that pass.

    Gradient, Grad-CAM and linear approximation come from one backward pass, guided backprop and
    DeconvNet from one each; targets that are the same for all images are explained once. Maps are
    those of separate calls, to the last bit in every model that was tried; only the order in which
    a sum of three or more gradients is rounded may differ.

    A failure of one method does not raise here; its maps are missing from the result. So are those
    of all other kinds of methods, of methods with the user's own rules, and of sharded models,
    whose weights serve one backward pass only.

    Args:
        methods: in any number.
        model: any module, in any state; it is not changed.
        image: (N, C, H, W), see :meth:`AttributionMethod.__call__`.
        choose: from the logits (N, classes) to the targets, each int64, (N,), or a callable. Called
            only if something is shared.
        read: from the model's output on N images, and N, to what is kept of it, (N, ...).

    Raises:
        InputError: the images cannot be used.
        ModelError: the model returns no logits.
        Exception: whatever ``choose`` raises.
    """
    with guarded(model, image) as images:
        shared, requests = _record(methods, model, images)
        if shared is None:
            with torch.no_grad():
                parts = Batches(len(images), images.device).run(
                    lambda batch: read(model(images[batch].clone()), batch.stop - batch.start),
                    len(images),
                )
                return SharedMaps(torch.cat(parts), {})
        logits = read(shared.output, len(images)).detach()
        maps: dict[tuple[int, int], Tensor] = {}
        explained: list[Target] = []
        for column, target in enumerate(choose(logits)):
            same = next((i for i, other in enumerate(explained) if _equal(other, target)), None)
            explained.append(target)
            found = shared.gradients(target) if same is None else {}
            for row, (method, request) in requests.items():
                if same is not None and (row, same) in maps:
                    maps[row, column] = maps[row, same]
                elif request in found:
                    with suppress(Exception):
                        maps[row, column] = _map(method, found[request], image)
        return SharedMaps(logits, maps)


def _equal(one: Target, other: Target) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one is other


_Requests: TypeAlias = dict[int, tuple[GradientMethod, GradientRequest]]


def _record(
    methods: Sequence[AttributionMethod], model: nn.Module, images: Tensor
) -> tuple[SharedPass | None, _Requests]:
    """Return a pass, and by the methods' positions the gradient that each needs of it."""
    requests: _Requests = {}
    if not is_sharded(model):
        for row, method in enumerate(methods):
            with suppress(Exception):
                if _can_share(method):
                    located = method.located(model, images)
                    request = located.gradient_request(model)
                    if request is not None:
                        requests[row] = located, request
    shared = None
    if requests:
        with suppress(Exception):
            shared = SharedPass(model, images.clone(), [each for _, each in requests.values()])
    return shared, requests


def _can_share(method: AttributionMethod) -> TypeGuard[GradientMethod]:
    # A method that does anything else in its call, or makes its maps in another way, does so alone.
    kind = type(method)
    return (
        isinstance(method, GradientMethod)
        and kind.__call__ is AttributionMethod.__call__
        and kind.attribute is GradientMethod.attribute
    )


def _map(method: GradientMethod, found: LayerGradient, image: Tensor) -> Tensor:
    activation, gradient = found
    saliency = method.map_of(activation, gradient, (image.shape[2], image.shape[3]))
    return method._finished(saliency, image)
