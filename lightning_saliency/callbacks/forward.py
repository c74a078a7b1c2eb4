"""What is called to get class scores from a module that we have never seen."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_saliency.errors import InputError, ModelError, SaliencyError
from lightning_saliency.network.forward_view import ForwardView
from lightning_saliency.network.isolation.undisturbed import undisturbed

Forward: TypeAlias = Callable[..., Any]
"""From (pl_module, images) to what holds the class scores; from (pl_module, images, inputs), if
``unpack`` hands on further inputs of the samples."""

_USUAL_NAMES = ("model", "net", "network", "classifier", "backbone", "module")


def explained_model(pl_module: pl.LightningModule, forward: Forward | None) -> nn.Module:
    """Return a module that maps images to what holds the class scores.

    Its layers have the names that they have in ``pl_module``. Without ``forward``, the module is
    called itself; one that has no ``forward`` of its own is taken to keep its network as
    ``self.model``, ``self.net``, ``self.network``, ``self.classifier``, ``self.backbone`` or
    ``self.module``, or as its only part with weights. Under ``FSDPStrategy`` it is called through
    the strategy's wrapper, by all processes.

    Args:
        pl_module: the user's module.
        forward: the user's own way to call it.

    Raises:
        InputError: it is not clear what to call.
    """
    wrapper = sharding_wrapper(pl_module)
    if forward is None and not overrides(pl_module, "forward"):
        forward = partial(_call_attribute, _network_of(pl_module))
    if wrapper is not None:
        return ForwardView(pl_module, partial(_call_wrapped, wrapper, forward))
    return pl_module if forward is None else ForwardView(pl_module, forward)


def _network_of(pl_module: pl.LightningModule) -> str:
    parts = [name for name, part in pl_module.named_children() if _is_network(part)]
    usual = [name for name in _USUAL_NAMES if isinstance(getattr(pl_module, name, None), nn.Module)]
    if usual or len(parts) == 1:
        return (usual or parts)[0]
    example = f"module.{parts[0]}(images)" if parts else "module.encoder(images)"
    raise InputError(
        f"Expected {type(pl_module).__name__} to have a forward that maps images to class scores, "
        f"or its network as one of {', '.join('self.' + name for name in _USUAL_NAMES)}; it has "
        + (" and ".join("self." + name for name in parts) or "no part with weights")
        + f". Say what to call: SaliencyCallback(..., forward=lambda module, images: {example})."
    )


def overrides(pl_module: pl.LightningModule, name: str) -> bool:
    """Return whether a module has its own method of this name.

    Args:
        pl_module: of ``lightning.pytorch`` or of ``pytorch_lightning``, which has its own classes.
        name: of a method of ``LightningModule``.
    """
    found = inspect.unwrap(getattr(type(pl_module), name))
    lightnings = ("lightning.pytorch.core.", "pytorch_lightning.core.", "torch.nn.modules.")
    return not getattr(found, "__module__", "").startswith(lightnings)


def find_forward(pl_module: pl.LightningModule, images: Tensor, key: str | None) -> Forward | None:
    """Find out how a module with its own ``forward`` wants to be given images.

    First the images alone are tried, then, if they came in a batch under a name, by this name: as
    a keyword, ``forward(pixel_values=images)``, and in a batch of nothing else,
    ``forward({"pixel_values": images})``. The model is not changed.

    Args:
        pl_module: the user's module.
        images: (N, C, H, W), on its device.
        key: the name under which the images came; None if there was none.

    Returns:
        How to call it, None for the images alone.

    Raises:
        InputError: it wants more than images.
        ModelError: it fails on the images.
    """
    if not overrides(pl_module, "forward"):
        return None
    ways: list[Forward | None] = [None]
    if key is not None:
        ways += [partial(_call_by_keyword, key), partial(_call_with_batch, key)]
    errors = []
    for way in ways:
        try:
            with undisturbed(pl_module), torch.no_grad():
                explained_model(pl_module, way)(images.clone())
            return way
        except (SaliencyError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            errors.append(error)
    raise _refusal(pl_module, errors[0]) from errors[0]


def _refusal(pl_module: pl.LightningModule, error: Exception) -> SaliencyError:
    name, signature = type(pl_module).__name__, inspect.signature(pl_module.forward)
    required = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.POSITIONAL_ONLY)
    ]
    others = [other for other in required[1:] if other.isidentifier()] or ["other"]
    handed = ", ".join(f"'{other}': batch['{other}']" for other in others)
    how = (
        "Hand on what belongs to each sample: SaliencyCallback(..., unpack=lambda batch: "
        f"(batch['image'], batch['label'], None, {{{handed}}})), which gives it to the module by "
        "name. If one thing is right for all: forward=lambda module, images: module(images, "
        f"{', '.join(f'{other}=...' for other in others)})."
    )
    try:
        signature.bind(None)
    except TypeError:
        listed = ", ".join(signature.parameters)
        return InputError(f"Expected to give images alone to {name}.forward({listed}). {how}")
    return ModelError(
        f"Expected {name}.forward to take images of shape (N, C, H, W) alone, in eval mode, but it "
        f"raised {type(error).__name__}: {error}. If it wants something else than images: {how}"
    )


def _is_network(part: nn.Module) -> bool:
    return not isinstance(part, Metric) and any(True for _ in part.parameters())


# Functions of the module and not closures, so that they can be pickled.


def _call_attribute(name: str, pl_module: Any, images: Tensor, *inputs: Any, **named: Any) -> Any:
    return getattr(pl_module, name)(images, *inputs, **named)


def _call_with_inputs(
    forward: Forward | None, inputs: Mapping[str, Tensor], model: Any, images: Tensor
) -> Any:
    rows = {
        name: value.expand(len(images), *value.shape[1:]) if len(value) == 1 else value
        for name, value in inputs.items()
    }
    if set(rows) == {""}:
        return model(images, rows[""])
    return model(images, **rows) if forward is None else model(images, rows)


def model_of_sample(
    model: nn.Module, forward: Forward | None, inputs: Mapping[str, Tensor]
) -> nn.Module:
    """Return a model of images alone that gives every image one sample's further inputs.

    So whatever a method asks the model, masked and noisy copies of the sample's image among them,
    it is asked together with what belongs to this sample. Without ``forward``, a single tensor is
    the second argument of the module, and named ones are keyword arguments; a ``forward`` of the
    user gets them as ``unpack`` returned them.

    Args:
        model: of :func:`explained_model`.
        forward: the user's own way to call it.
        inputs: of one sample, each (1, ...).
    """
    return ForwardView(model, partial(_call_with_inputs, forward, inputs))


def _call_by_keyword(name: str, pl_module: Any, images: Tensor) -> Any:
    return pl_module(**{name: images})


def _call_with_batch(name: str, pl_module: Any, images: Tensor) -> Any:
    return pl_module({name: images})


def sharding_wrapper(pl_module: pl.LightningModule) -> nn.Module | None:
    """Return the wrapper without which a module cannot be called, None if there is none.

    ``FSDPStrategy`` puts the whole module into one; the weights that lie in the module itself are
    flat pieces until the wrapper is called.

    Args:
        pl_module: the user's module, in a run or not.
    """
    trainer: Any = getattr(pl_module, "_trainer", None)
    wrapper = getattr(getattr(trainer, "strategy", None), "model", None)
    # By name, because the class is there only where torch has its distributed package.
    is_one = any(kind.__name__ == "FullyShardedDataParallel" for kind in type(wrapper).__mro__)
    return wrapper if is_one and wrapper is not pl_module else None


def _call_wrapped(
    wrapper: nn.Module,
    way: Forward | None,
    pl_module: Any,
    images: Tensor,
    *inputs: Any,
    **named: Any,
) -> Any:
    """Return what the module returns, called in a way of the user's, but through its wrapper."""
    if way is None:
        return wrapper(images, *inputs, **named)
    own: dict[str, Any] = pl_module.__dict__
    before = {"forward": own["forward"]} if "forward" in own else {}

    def restore() -> None:
        own.pop("forward", None)
        own.update(before)

    def instead(images: Tensor, *inputs: Any, **named: Any) -> Any:
        # The way may call the module's own forward.
        restore()
        return way(pl_module, images, *inputs, **named)

    own["forward"] = instead
    try:
        return wrapper(images, *inputs, **named)
    finally:
        restore()
