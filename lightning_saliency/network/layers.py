"""The layers of a model: find them by name, capture their outputs, recognize sharded weights."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_saliency.errors import LayerError
from lightning_saliency.network.forward_view import name_of

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


# By name, because the classes are there only where torch has its distributed package.
_SHARDED_MODULES = {"FSDPModule", "FullyShardedDataParallel"}
_SHARDED_WEIGHTS = {"DTensor"}


def is_sharded(model: nn.Module) -> bool:
    """Whether a part of the weights is gathered for a pass and given back after it.

    Such weights serve one backward pass for each forward pass, and all processes have to make
    the same number of passes. Known are FSDP, tensors spread over a mesh, and DeepSpeed's stage 3.

    Args:
        model: any module.
    """
    return has_sharded(list(model.modules()))


def has_sharded(modules: Sequence[nn.Module]) -> bool:
    """Whether some of the weights that modules hold themselves are, as :func:`is_sharded` says.

    Args:
        modules: any; parts of theirs are not looked at.
    """
    kinds = {kind.__name__ for each in set(map(type, modules)) for kind in each.__mro__}
    weights = [weight for module in modules for weight in module._parameters.values()]
    return bool(
        _SHARDED_MODULES & kinds
        or _SHARDED_WEIGHTS & {type(weight).__name__ for weight in weights}
        or any(hasattr(weight, "ds_id") for weight in weights)
    )


class Capture:
    """The output of one layer; filled while the model runs inside :func:`capture`."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self._outputs: list[object] = []

    @property
    def has_run(self) -> bool:
        """Whether the layer has run yet."""
        return bool(self._outputs)

    @property
    def activation(self) -> Tensor:
        """The layer's output, of any shape; it is part of the graph of the score.

        Raises:
            LayerError: the layer did not run, ran several times, or its output is no single tensor.
        """
        if not self._outputs:
            raise LayerError(
                f"Expected layer '{self.layer}' to run once when the model runs, but it was not "
                "called. Choose a layer that the model's forward calls as a module."
            )
        if len(self._outputs) > 1:
            raise LayerError(
                f"Expected layer '{self.layer}' to run once when the model runs, but it was called "
                f"{len(self._outputs)} times, so it is not clear which output is meant. Choose the "
                "block around it, or give each call a module of its own."
            )
        (output,) = self._outputs
        if not isinstance(output, Tensor):
            raise LayerError(
                f"Expected layer '{self.layer}' to put out one tensor, but it put out "
                f"{type(output).__name__}. Choose a layer inside it or after it."
            )
        return output


@contextmanager
def capture(model: nn.Module, layer: str, *, start_graph: bool = False) -> Iterator[Capture]:
    """Keep the output of ``layer`` while the model runs.

    The model continues with a clone, so that an in-place operation after the layer changes neither
    the value that was kept nor its gradient.

    Args:
        model: the model that has the layer.
        layer: its name, as in ``model.named_modules()``.
        start_graph: let the graph begin at this layer. With frozen parameters and an image that
            needs no gradient, the layers before it then record nothing, and the backward pass
            ends here; this is what makes Grad-CAM cost little more than a forward pass. It
            begins here in any case if nothing is recorded before, as after a part of the model
            that runs in ``no_grad``.

    Raises:
        LayerError: there is no such layer, or its output cannot be caught.
    """
    caught = Capture(layer)
    found = find_layer(model, layer)
    if isinstance(found, torch.jit.ScriptModule):
        raise LayerError(
            f"Expected layer '{layer}' to be in Python, but it is scripted or traced, and what it "
            "puts out cannot be caught. Explain the model before torch.jit.script or "
            "torch.jit.trace, or choose a layer around it."
        )

    def keep(_module: nn.Module, _inputs: object, output: object) -> object:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            caught._outputs.append(output)
            return output
        if start_graph or not output.requires_grad:
            output = output.detach().requires_grad_()
        caught._outputs.append(output)
        # Models run their frozen parts in no_grad(); the graph continues after them.
        with torch.enable_grad():
            return output.clone()

    # Before the model's own hooks: what they keep of the layer, as transformers' do, must be what
    # the gradient is taken of.
    handle = found.register_forward_hook(keep, prepend=True)
    try:
        # The caller records the graph here, whatever mode it came from.
        with torch.enable_grad():
            yield caught
    finally:
        handle.remove()
