"""Eval mode, frozen parameters, and tensors that gradients can pass, for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lightning_saliency.network.isolation.holders import restore_dict


@contextmanager
def eval_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Have modules in eval mode, and give each its own flag back.

    The flag is set directly, module by module: users override ``train()`` and ``eval()``, and a
    frozen BatchNorm inside a training model must come back frozen.

    Args:
        modules: each once.
    """
    flags = [module.training for module in modules]
    for module, flag in zip(modules, flags, strict=True):
        if flag:
            _set_training(module, False)
    try:
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            if module.training != flag:
                _set_training(module, flag)


def _set_training(module: nn.Module, flag: bool) -> None:
    # Not as an attribute where it can be helped, which takes many times as long.
    if "training" in module.__dict__:
        module.__dict__["training"] = flag
    else:
        module.training = flag


@contextmanager
def frozen_parameters(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Freeze the modules' own parameters, and set their gradients aside.

    With ``.grad`` set aside, not even a ``backward()`` or ``zero_grad()`` of a user's own method
    can touch what gradient accumulation has gathered so far.

    Args:
        modules: each once.
    """
    saved: list[tuple[dict[str, Any], str, Tensor, bool, Tensor | None]] = []
    try:
        for module in modules:
            table: dict[str, Any] = module._parameters
            for name, parameter in table.items():
                if parameter is not None:
                    needs_gradient, grad = parameter.requires_grad, parameter.grad
                    saved.append((table, name, parameter, needs_gradient, grad))
                    _freeze(parameter, needs_gradient, grad)
        yield
    finally:
        # A parameter that two modules share was saved twice, the second time already frozen.
        for table, name, parameter, needs_gradient, grad in reversed(saved):
            # A sharded module leaves the gathered weights in place of its own after a forward
            # pass without a backward pass; they were made frozen.
            if name in table and table[name] is not None and table[name] is not parameter:
                table[name].requires_grad_(needs_gradient)
            _unfreeze(parameter, needs_gradient, grad)


@contextmanager
def frozen(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Freeze tensors that are no modules' parameters, but collect gradients all the same.

    Args:
        tensors: of any kind; those that a graph has computed are left alone.
    """
    leaves = [tensor for tensor in tensors if tensor.requires_grad and tensor.is_leaf]
    saved = [(leaf, leaf.grad) for leaf in leaves]
    try:
        for leaf, grad in saved:
            _freeze(leaf, True, grad)
        yield
    finally:
        for leaf, grad in saved:
            _unfreeze(leaf, True, grad)


def _freeze(tensor: Tensor, needs_gradient: bool, grad: Tensor | None) -> None:
    if needs_gradient:
        tensor.requires_grad_(False)
    if grad is not None:
        tensor.grad = None


def _unfreeze(tensor: Tensor, needs_gradient: bool, grad: Tensor | None) -> None:
    if tensor.requires_grad is not needs_gradient:
        tensor.requires_grad_(needs_gradient)
    if tensor.grad is not grad:
        tensor.grad = grad


@contextmanager
def no_inference_tensors(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Replace what was made in inference mode, which no gradient passes, by clones.

    Args:
        modules: each once; looked at are their parameters, buffers and attributes.
    """
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


def _tables_of_tensors(modules: Sequence[nn.Module]) -> Iterator[dict[str, Any]]:
    for module in modules:
        if module._parameters:
            yield module._parameters
        if module._buffers:
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


@contextmanager
def detached_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put other objects with the same memory in the place of the modules' buffers.

    A model that writes what it computes from the image into a buffer would make the buffer a part
    of the graph for good.

    Args:
        modules: each once; a scripted module's buffers stay, because its tables are not Python's.
    """
    tables = [module._buffers for module in modules if module._buffers]
    before = [(table, dict(table)) for table in tables if isinstance(table, dict)]
    # A buffer that two modules share stays shared. By ids: the hash of a tensor is slow.
    stand_ins: dict[int, Tensor] = {}
    try:
        for table, entries in before:
            for name, buffer in entries.items():
                if buffer is not None:
                    table[name] = stand_ins.setdefault(id(buffer), buffer.detach())
        yield
    finally:
        for table, entries in before:
            restore_dict(table, entries)
