"""Run anything on a model that is in training, and leave no trace."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_saliency.errors import ModelError
from lightning_saliency.network.layers import every_module
from lightning_saliency.network.preserved_buffers import preserved_buffers, put_back

__all__ = ["lazy_layer", "other_random_numbers", "preserved_random_streams", "undisturbed"]

_hook_tables = attrgetter(
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Make ``model`` ready to be explained, and put everything back afterwards.

    Inside, every module is in eval mode, every parameter is frozen and has no ``.grad``, gradients
    are recorded (also when the caller is in ``no_grad`` or ``inference_mode``), autocast and
    anomaly detection are off, compiled modules run eagerly, and what is checkpointed with
    ``use_reentrant=True`` keeps its activations.

    Afterwards, also after an exception, these are what they were, to the last bit: each module's
    own training flag and hooks; each parameter's ``requires_grad`` and ``.grad``; each buffer; the
    random streams of the CPU, of every accelerator that holds a part of the model, of NumPy and
    of Python.

    Tensors that were made under ``inference_mode`` (batches of ``Trainer.validate``, for instance)
    must be cloned inside this context before a gradient can be taken through them. Tensors that
    the model's modules hold and that were made so are replaced by clones for the while.

    What it cannot undo: what the model's own ``forward`` writes into weights, Python objects, files
    or loggers.

    Args:
        model: the model, or a part of it; only its own modules are looked after.

    Raises:
        ModelError: the model has lazy layers that no input has shaped yet, or keeps tensors of an
            inference run where they are not found.
    """
    modules = every_module(model)
    tensors = _held_by(modules)
    _refuse_lazy_layers(model, tensors)
    devices = {tensor.device for tensor in tensors if not tensor.is_cpu}
    with ExitStack() as stack:
        stack.enter_context(preserved_random_streams(devices))
        # This also records gradients, for callers in no_grad, too.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.autograd.set_detect_anomaly(False))
        for device_type in {"cpu", *(device.type for device in devices)}:
            if torch.amp.is_autocast_available(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        # A hook that is added after the first compiled call is silently skipped by that code.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_kept_activations())
        stack.enter_context(_preserved_hooks(modules))
        stack.enter_context(_explained_inference_error())
        stack.enter_context(_no_inference_tensors(modules))
        stack.enter_context(preserved_buffers(modules))
        stack.enter_context(_frozen_parameters(modules))
        stack.enter_context(_eval_mode(modules))
        yield


@contextmanager
def preserved_random_streams(devices: set[torch.device] | None = None) -> Iterator[None]:
    """Restore the random streams of the CPU, NumPy, Python and ``devices`` on leaving.

    Args:
        devices: accelerators whose generators are restored too; the CPU is always restored.
    """
    cuda = [d for d in devices or () if d.type == "cuda"]
    mps = any(d.type == "mps" for d in devices or ())
    python_state, numpy_state = random.getstate(), np.random.get_state()
    cpu_state = torch.get_rng_state()
    cuda_states = [(d, torch.cuda.get_rng_state(d)) for d in cuda]
    mps_state = torch.mps.get_rng_state() if mps else None
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu_state)
        for device, state in cuda_states:
            torch.cuda.set_rng_state(state, device)
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)


@contextmanager
def other_random_numbers(device: torch.device, turn: int) -> Iterator[None]:
    """Move the random streams on, and restore them on leaving.

    Args:
        device: whose stream is moved beside those of the CPU, NumPy and Python.
        turn: how far; each turn, and none, gives other numbers.
    """
    with preserved_random_streams({device}):
        for where in {torch.device("cpu"), device}:
            torch.rand(turn, device=where)
        np.random.random(turn)
        for _ in range(turn):
            random.random()
        yield


def lazy_layer(model: nn.Module) -> str | None:
    """Return the name of a layer whose weights wait for their first input, None if all have theirs.

    Args:
        model: of whatever layers.
    """
    for name, module in model.named_modules():
        tensors = [*module._parameters.values(), *module._buffers.values()]
        if any(is_lazy(tensor) for tensor in tensors):
            return str(name)
    return None


def _refuse_lazy_layers(model: nn.Module, tensors: list[Tensor]) -> None:
    if not any(is_lazy(tensor) for tensor in tensors):
        return
    name = lazy_layer(model)
    kind = type(model.get_submodule(name)).__name__ if name is not None else ""
    raise ModelError(
        f"Expected a model whose layers all have their weights, but layer '{name}' ({kind}) waits "
        "for its first input. Send one batch through the model before it is explained."
    )


def _held_by(modules: list[nn.Module]) -> list[Tensor]:
    """Return the modules' own parameters and buffers."""
    return [
        tensor
        for module in modules
        for table in (module._parameters, module._buffers)
        for tensor in table.values()
        if tensor is not None
    ]


@contextmanager
def _eval_mode(modules: list[nn.Module]) -> Iterator[None]:
    # The flag is set directly, module by module: users override train() and eval(), and a frozen
    # BatchNorm inside a training model must come back frozen.
    flags = [module.training for module in modules]
    for module, flag in zip(modules, flags, strict=True):
        if flag:
            module.training = False
    try:
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            # To set an attribute of a module takes many times as long as to read it.
            if module.training != flag:
                module.training = flag


@contextmanager
def _frozen_parameters(modules: list[nn.Module]) -> Iterator[None]:
    saved: list[tuple[dict[str, Any], str, Tensor, bool, Tensor | None]] = []
    try:
        for module in modules:
            table: dict[str, Any] = module._parameters
            for name, parameter in table.items():
                if parameter is not None:
                    # With .grad set aside, not even a backward() or zero_grad() of a user's own
                    # method can touch what gradient accumulation has gathered so far.
                    grad = parameter.grad
                    saved.append((table, name, parameter, parameter.requires_grad, grad))
                    parameter.requires_grad_(False)
                    if grad is not None:
                        parameter.grad = None
        yield
    finally:
        # A parameter that two modules share was saved twice, the second time already frozen.
        for table, name, frozen, requires_grad, grad in reversed(saved):
            # A sharded module leaves the gathered weights in place of its own after a forward
            # pass without a backward pass; they were made frozen.
            if name in table and table[name] is not None and table[name] is not frozen:
                table[name].requires_grad_(requires_grad)
            frozen.requires_grad_(requires_grad)
            if frozen.grad is not grad:
                frozen.grad = grad


@contextmanager
def _no_inference_tensors(modules: list[nn.Module]) -> Iterator[None]:
    """Replace what was made in inference mode, which no gradient passes, by clones."""
    clones: dict[Tensor, Tensor] = {}
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for table in _tables_of_tensors(modules):
            found = [
                (name, tensor)
                for name, tensor in table.items()
                if isinstance(tensor, Tensor) and tensor.is_inference()
            ]
            for name, tensor in found:
                clone = clones.setdefault(tensor, _clone(tensor))
                replaced.append((table, name, tensor))
                table[name] = clone
        yield
    finally:
        for table, name, original in replaced:
            table[name] = original


def _tables_of_tensors(modules: list[nn.Module]) -> Iterator[dict[str, Any]]:
    for module in modules:
        yield module._parameters
        yield module._buffers
    # Modules have dozens of attributes each; in most models none of them is a tensor.
    kinds: set[type] = set()
    for module in modules:
        kinds.update(map(type, module.__dict__.values()))
    if any(issubclass(kind, Tensor) for kind in kinds):
        yield from map(vars, modules)


def _clone(tensor: Tensor) -> Tensor:
    clone = tensor.clone()
    return nn.Parameter(clone, requires_grad=False) if isinstance(tensor, nn.Parameter) else clone


class _RunsOnce:
    """Takes the place of the autograd function of reentrant checkpoints."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


@contextmanager
def _kept_activations() -> Iterator[None]:
    """Let parts of the model that are checkpointed the reentrant way run as if they were not.

    Such a checkpoint refuses gradients with respect to an image; of the few images that are
    explained, the activations can be kept. Other checkpoints need no help.
    """
    checkpoints: Any = torch.utils.checkpoint
    original = checkpoints.CheckpointFunction
    checkpoints.CheckpointFunction = _RunsOnce
    try:
        yield
    finally:
        checkpoints.CheckpointFunction = original


@contextmanager
def _explained_inference_error() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "nference tensor" not in str(error):
            raise
        raise ModelError(
            "Expected a model without tensors that were made in inference mode, but it keeps one "
            "where it is not found, in a list for instance. Make it a buffer, or run with "
            f"Trainer(inference_mode=False). ({error})"
        ) from error


@contextmanager
def _preserved_hooks(modules: list[nn.Module]) -> Iterator[None]:
    tables = [table for module in modules for table in _hook_tables(module)]
    # Nearly all of them are empty.
    before = {index: dict(table) for index, table in enumerate(tables) if table}
    # Modules refuse to mix the two kinds of backward hook and note here which they have.
    kinds = [module._is_full_backward_hook for module in modules]
    try:
        yield
    finally:
        for index, table in enumerate(tables):
            if table or index in before:
                put_back(table, before.get(index, {}))
        for module, kind in zip(modules, kinds, strict=True):
            if module._is_full_backward_hook is not kind:
                module._is_full_backward_hook = kind
