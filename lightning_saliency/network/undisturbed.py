"""Run anything on a model that is in training, and leave no trace."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_saliency.errors import ModelError

__all__ = ["preserved_random_streams", "undisturbed"]

_HOOK_TABLES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Make ``model`` ready to be explained, and put everything back afterwards.

    Inside, every module is in eval mode, every parameter is frozen and has no ``.grad``, gradients
    are recorded (also when the caller is in ``no_grad`` or ``inference_mode``), autocast and
    anomaly detection are off, and compiled modules run eagerly.

    Afterwards, also after an exception, these are what they were, to the last bit: each module's
    own training flag and hooks; each parameter's ``requires_grad`` and ``.grad``; each buffer; the
    random streams of the CPU, of every accelerator that holds a part of the model, of NumPy and
    of Python.

    Tensors that were made under ``inference_mode`` (batches of ``Trainer.validate``, for instance)
    must be cloned inside this context before a gradient can be taken through them. Buffers and
    parameters of the model that were made so are replaced by clones for the while.

    What it cannot undo: what the model's own ``forward`` does to Python objects, files or loggers.

    Args:
        model: the model, or a part of it; only its own modules are looked after.

    Raises:
        ModelError: the model has lazy layers that no input has shaped yet.
    """
    modules = list(model.modules())
    _refuse_lazy_layers(model)
    with ExitStack() as stack:
        stack.enter_context(preserved_random_streams(_devices(model)))
        # Leaving inference mode also turns gradients on; enable_grad is for callers in no_grad.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.set_detect_anomaly(False))
        for device_type in {"cpu", *(device.type for device in _devices(model))}:
            if torch.amp.is_autocast_available(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        # A hook that is added after the first compiled call is silently skipped by that code.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_preserved_hooks(modules))
        stack.enter_context(_preserved_buffers(modules))
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


def _refuse_lazy_layers(model: nn.Module) -> None:
    for name, module in model.named_modules():
        tensors = [*module._parameters.values(), *module._buffers.values()]
        if any(is_lazy(tensor) for tensor in tensors):
            raise ModelError(
                f"Expected a model whose layers all have their weights, but layer '{name}' "
                f"({type(module).__name__}) waits for its first input. Send one batch through the "
                "model before it is explained."
            )


def _devices(model: nn.Module) -> set[torch.device]:
    tensors = [*model.parameters(), *model.buffers()]
    return {tensor.device for tensor in tensors} - {torch.device("cpu")}


@contextmanager
def _eval_mode(modules: list[nn.Module]) -> Iterator[None]:
    # The flag is set directly, module by module: users override train() and eval(), and a frozen
    # BatchNorm inside a training model must come back frozen.
    flags = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag


@contextmanager
def _frozen_parameters(modules: list[nn.Module]) -> Iterator[None]:
    saved: list[tuple[Tensor, bool, Tensor | None]] = []
    swapped: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for module in modules:
            for name, parameter in module._parameters.items():
                if parameter is None:
                    continue
                if parameter.is_inference():
                    clone = nn.Parameter(parameter.clone(), requires_grad=False)
                    swapped.append((module._parameters, name, parameter))
                    module._parameters[name] = clone
                    continue
                # With .grad set aside, not even a backward() or zero_grad() of a user's own
                # method can touch what gradient accumulation has gathered so far.
                saved.append((parameter, parameter.requires_grad, parameter.grad))
                parameter.requires_grad_(False)
                parameter.grad = None
        yield
    finally:
        # A parameter that two modules share was saved twice, the second time already frozen.
        for frozen, requires_grad, grad in reversed(saved):
            frozen.requires_grad_(requires_grad)
            frozen.grad = grad
        for table, name, original in swapped:
            table[name] = original


@contextmanager
def _preserved_buffers(modules: list[nn.Module]) -> Iterator[None]:
    tables = [(module, dict(module._buffers)) for module in modules]
    copies: dict[Tensor, Tensor] = {}
    for module, table in tables:
        for name, buffer in table.items():
            if buffer is None or buffer in copies:
                continue
            copies[buffer] = buffer.detach().clone()
            if buffer.is_inference():
                module._buffers[name] = copies[buffer]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, copy in copies.items():
                # Inference tensors were never given to the model, so they cannot have changed.
                if not buffer.is_inference() and not _same(buffer, copy):
                    buffer.copy_(copy)
        for module, table in tables:
            module._buffers.clear()
            module._buffers.update(table)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


@contextmanager
def _preserved_hooks(modules: list[nn.Module]) -> Iterator[None]:
    tables = [getattr(module, name) for module in modules for name in _HOOK_TABLES]
    before = [list(table) for table in tables]
    try:
        yield
    finally:
        for table, keys in zip(tables, before, strict=True):
            for key in [key for key in table if key not in keys]:
                del table[key]
