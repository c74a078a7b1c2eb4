"""A deep copy of a model, and random weights for some of its layers."""

import copy
import inspect
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_saliency.errors import ModelError
from lightning_saliency.network.isolation.process_state import preserved_random_streams
from lightning_saliency.network.isolation.undisturbed import undisturbed
from lightning_saliency.network.layers import layer_names

# Packages that shard weights, by what they leave in the modules or in the parameters.
_SHARDING_MODULES = ("torch.distributed.fsdp", "fairscale.nn")
_SHARDING_ATTRIBUTES = ("ds_id", "device_mesh")


_Model = TypeVar("_Model", bound=nn.Module)


def copy_of(model: _Model) -> _Model:
    """Return a deep copy on the same device: other weights, other modules, nothing shared.

    Args:
        model: in any state; it is not changed.

    Raises:
        ModelError: its weights are sharded over processes, or it holds something that cannot be
            copied.
    """
    check_copyable(model)
    try:
        # Not inside inference mode, where the copies would be tensors that no gradient passes.
        with preserved_random_streams(), _writable():
            return copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"Expected a model that can be copied with copy.deepcopy, but {type(model).__name__} "
            f"cannot: {type(error).__name__}: {error}. Tensors that its forward computed and kept "
            "(as the old weight_norm and spectral_norm do; torch.nn.utils.parametrizations do "
            "not), open files and locks cannot be copied; keep them out of the model."
        ) from error


def check_copyable(model: nn.Module) -> None:
    """Raise if the model's weights are not all here, so that no copy can have them.

    Args:
        model: in any state.

    Raises:
        ModelError: weights are sharded over processes, or wait for their first input.
    """
    for name, module in model.named_modules():
        weights = list(module._parameters.values())
        by_module = any(
            kind.__module__.startswith(_SHARDING_MODULES) for kind in type(module).mro()
        )
        by_weight = any(hasattr(w, mark) for w in weights for mark in _SHARDING_ATTRIBUTES)
        if by_module or by_weight:
            raise ModelError(
                f"Expected a model with all of its weights on this process, but those of "
                f"'{name or type(module).__name__}' are sharded. Load a checkpoint of it into a "
                "model that is not sharded, and check that."
            )
        if any(is_lazy(weight) for weight in weights):
            raise ModelError(
                f"Expected a model whose layers all have their weights, but '{name}' waits for its "
                "first input. Send one batch through the model."
            )


def layers_with_weights(model: nn.Module, image: Tensor) -> list[str]:
    """Return the names of the layers that hold weights of their own, in the order they run in.

    Args:
        model: takes ``image``; it is not changed.
        image: (N, C, H, W), one image is enough.

    Returns:
        ``"features.0"``, ...; ``""`` for the model itself if it holds weights. A layer that runs
        several times stands where it runs first. One that cannot be seen running (its weights are
        used by other code, it is scripted, or it never runs) stands where the block that holds it
        runs.
    """
    layers = {"": model, **layer_names(model)}
    started: dict[nn.Module, int] = {}

    def note(module: nn.Module, _: object) -> None:
        started.setdefault(module, len(started))

    with undisturbed(model), torch.no_grad():
        for module in set(layers.values()):
            if not isinstance(module, torch.jit.ScriptModule):
                module.register_forward_pre_hook(note)
        model(image.detach().clone())

    def place(name: str) -> int:
        while name and layers[name] not in started:
            name = name.rpartition(".")[0]
        return started.get(layers[name], 0)

    names: dict[nn.Module, str] = {}
    for name, module in layers.items():
        if any(weight is not None for weight in module._parameters.values()) or _resets(module):
            names.setdefault(module, name)
    return sorted(names.values(), key=place)


def randomize(model: nn.Module, names: Iterable[str], seed: int) -> None:
    """Give layers random weights, in place: those that a new layer of the kind would start with.

    A layer with ``reset_parameters()``, as all of PyTorch's have, uses that; BatchNorm begins with
    mean 0 and variance 1. Any other weights (a class token, the scales of a layer of the user's)
    are shuffled. Drawn on the CPU, so that a seed gives the same weights on every device; no random
    stream moves.

    Args:
        model: is changed.
        names: from :func:`layers_with_weights`; only the layers' own weights, not those of layers
            inside them.
        seed: each layer has its own stream, whichever others are given weights.

    Raises:
        ModelError: a layer's ``reset_parameters()`` failed.
    """
    layers = {"": model, **layer_names(model)}
    numbers = {name: number for number, name in enumerate(layers)}
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    with preserved_random_streams(devices), _writable():
        for name in names:
            layer_seed = seed + 1000 * numbers[name]
            torch.default_generator.manual_seed(layer_seed)
            random.seed(layer_seed)
            np.random.seed(layer_seed % 2**32)
            _reset_or_shuffle(layers[name], name)


@contextmanager
def preserved_weights(model: nn.Module) -> Iterator[None]:
    """Put all weights and buffers back afterwards.

    Args:
        model: may be changed in place inside.
    """
    tensors = [*model.parameters(), *model.buffers()]
    saved = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with _writable():
            for tensor, values in zip(tensors, saved, strict=True):
                tensor.copy_(values)


def _resets(module: nn.Module) -> bool:
    """Whether the layer has something of its own to reset: BatchNorm without weights."""
    buffers = any(buffer is not None for buffer in module._buffers.values())
    return buffers and callable(getattr(module, "reset_parameters", None))


def _reset_or_shuffle(module: nn.Module, name: str) -> None:
    own = [weight for weight in module._parameters.values() if weight is not None]
    if not _has_usable_reset(module):
        for weight in own:
            shuffled = weight.flatten()[torch.randperm(weight.numel()).to(weight.device)]
            weight.copy_(shuffled.view_as(weight))
        return
    # A user's reset_parameters() may go through the layers inside it; they have turns of their own.
    inner = [t for child in module.children() for t in (*child.parameters(), *child.buffers())]
    saved = [tensor.clone() for tensor in inner]
    reset: Any = module.reset_parameters
    try:
        with _on_the_cpu([*own, *module.buffers(recurse=False)]):
            reset()
    except Exception as error:
        raise ModelError(
            f"Expected layer '{name}' ({type(module).__name__}) to take random weights by its "
            f"reset_parameters(), but that failed: {type(error).__name__}: {error}."
        ) from error
    for tensor, values in zip(inner, saved, strict=True):
        tensor.copy_(values)


@contextmanager
def _writable() -> Iterator[None]:
    # In this order: leaving inference mode also begins to record gradients.
    with torch.inference_mode(False), torch.no_grad():
        yield


@contextmanager
def _on_the_cpu(tensors: list[Tensor]) -> Iterator[None]:
    devices = [tensor.device for tensor in tensors]
    for tensor in tensors:
        tensor.data = tensor.data.cpu()
    try:
        yield
    finally:
        for tensor, device in zip(tensors, devices, strict=True):
            tensor.data = tensor.data.to(device)


def _has_usable_reset(module: nn.Module) -> bool:
    reset = getattr(module, "reset_parameters", None)
    if not callable(reset) or isinstance(module, torch.jit.ScriptModule):
        return False
    needed = [p for p in inspect.signature(reset).parameters.values() if p.default is p.empty]
    return not [p for p in needed if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
