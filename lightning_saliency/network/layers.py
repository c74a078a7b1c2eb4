"""Find a layer of a model by its name."""

import difflib

from torch import nn

from lightning_saliency.errors import LayerError
from lightning_saliency.network.forward_view import name_of

__all__ = ["every_module", "find_layer", "layer_names"]

# What a compiled module, FSDP and activation checkpointing call the module inside them.
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def every_module(model: nn.Module) -> list[nn.Module]:
    """Return the model and all modules inside it, each once, in no particular order.

    Several times as quick as ``model.modules()``, which also makes up their names.

    Args:
        model: any module.
    """
    found: dict[int, nn.Module] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if id(module) not in found:
            found[id(module)] = module
            waiting.extend(inner for inner in module._modules.values() if inner is not None)
    return list(found.values())


def layer_names(model: nn.Module) -> dict[str, nn.Module]:
    """Return the model's layers by name, without the names that wrappers put in.

    A layer that the model holds under several names is there under each of them.

    Args:
        model: any module; the model itself is not among its layers.
    """
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if plain := _plain(name):
            # A compiled module and the module inside it share a name; hooks belong on the outer.
            layers.setdefault(plain, module)
    return layers


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPED)


def _by_path(model: nn.Module, path: str) -> nn.Module | None:
    """Return what :func:`layer_names` has under this name, without a list of all of them."""
    module: nn.Module | None = model
    for part in path.split("."):
        # A wrapper has the module inside it, and that has the layers.
        while module is not None and part not in module._modules:
            module = next(filter(None, map(module._modules.get, _WRAPPED)), None)
        module = None if module is None else module._modules[part]
    return module


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Return the layer called ``name``, as in ``model.named_modules()``.

    Args:
        model: the model that has the layer, compiled or not.
        name: for instance ``"layer4"`` or ``"features.29"``.

    Raises:
        LayerError: there is no such layer; the message lists the nearest names.
    """
    found = _by_path(model, _plain(name))
    if found is not None:
        return found
    layers = layer_names(model)
    last = name.rpartition(".")[2]
    same_ending = [known for known in layers if last and known.rpartition(".")[2] == last]
    near = dict.fromkeys(difflib.get_close_matches(name, layers, n=3, cutoff=0.5) + same_ending)
    if near:
        hint = "Did you mean " + " or ".join(f"'{known}'" for known in list(near)[:4]) + "?"
    else:
        top = [f"'{known}'" for known in layers if "." not in known]
        hint = f"Its outermost layers are {', '.join(top[:12])}." if top else "It has no layers."
    raise LayerError(
        f"Expected the name of a layer of {name_of(model)}, but it has no '{name}'. {hint}"
    )
