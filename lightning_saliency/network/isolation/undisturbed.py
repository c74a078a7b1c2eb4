"""Run anything on a model that is in training, and leave no trace."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_saliency.errors import ModelError
from lightning_saliency.network.isolation.process_state import (
    eager_code,
    kept_activations,
    no_anomaly_detection,
    preserved_random_streams,
    preserved_settings,
)
from lightning_saliency.network.isolation.reachable import Reached
from lightning_saliency.network.isolation.sharded import no_waiting_hooks
from lightning_saliency.network.isolation.silent_logging import silent_logging
from lightning_saliency.network.isolation.snapshot import Snapshot, warn_of_lost
from lightning_saliency.network.isolation.training_modes import (
    detached_buffers,
    eval_mode,
    frozen,
    frozen_parameters,
    no_inference_tensors,
)
from lightning_saliency.network.isolation.weight_guard import watched_parameters
from lightning_saliency.network.layers import every_module, has_sharded


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Make ``model`` ready to be explained, and put everything back afterwards.

    Inside, every module is in eval mode, every parameter is frozen and has no ``.grad``, gradients
    are recorded (also when the caller is in ``no_grad`` or ``inference_mode``), autocast and
    anomaly detection are off, compiled modules run eagerly, what is checkpointed with
    ``use_reentrant=True`` keeps its activations, and what a LightningModule logs goes nowhere.

    Afterwards, also after an exception, these are what they were, to the last bit: all that Python
    reaches from the model (see :class:`~lightning_saliency.network.isolation.snapshot.Snapshot`),
    its modules' flags, hooks and attributes, its weights and buffers, each parameter's
    ``requires_grad`` and ``.grad``; torch's, NumPy's and Python's settings and random streams,
    those of every accelerator that holds a part of the model among them.

    Inside of another such context of the same thread everything is as cheap as a look at what has
    changed, and it is put back to how it was when the inner context began.

    Tensors that were made under ``inference_mode`` (batches of ``Trainer.validate``, for instance)
    must be cloned inside this context before a gradient can be taken through them. Tensors that
    the model's modules hold and that were made so are replaced by clones for the while.

    What it cannot undo: running generators, most iterators, what is written into files or
    shown, globals of installed packages, memory that other processes share.

    Args:
        model: the model, or a part of it.

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
        stack.enter_context(preserved_settings())
        # This also records gradients, for callers in no_grad, too.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(no_anomaly_detection())
        for device_type in {"cpu", *(device.type for device in devices)}:
            if torch.amp.is_autocast_available(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(eager_code())
        stack.enter_context(kept_activations())
        stack.enter_context(_explained_inference_error())
        outer = list(_snapshots())
        ids = [snapshot.ids for snapshot in outer]
        new = [module for module in modules if not any(id(module) in known for known in ids)]
        stack.enter_context(no_inference_tensors(new))
        stack.enter_context(detached_buffers(new))
        stack.enter_context(frozen_parameters(modules))
        stack.enter_context(eval_mode(modules))
        if len(new) < len(modules):
            stack.enter_context(_as_on_entering(outer))
        if new:
            stack.enter_context(_kept(model, new, set().union(*ids)))
        yield


class _Here(threading.local):
    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []


_here = _Here()
# Models that have written to their weights in a way that was noticed too late.
_writers: WeakSet[nn.Module] = WeakSet()


def _snapshots() -> list[Snapshot]:
    return _here.snapshots


def keep_weights_held_by(code: object) -> None:
    """Copy the weights that somebody's code already has, before it can write to them.

    Called inside of :func:`undisturbed`, before the code runs on the model. What the code keeps
    for itself is its own, and is not put back.

    Args:
        code: a function, for instance, with weights in its closure.
    """
    known = {key for snapshot in _here.snapshots for key in snapshot.ids}
    held = Reached([code], known)
    for snapshot in _here.snapshots:
        snapshot.keep_now([tensor for tensor in held.tensors if snapshot.watches(tensor)])


@contextmanager
def without_outer_contexts() -> Iterator[None]:
    """Let :func:`undisturbed` inside take snapshots of its own, whatever context it is in."""
    outer, _here.snapshots = _here.snapshots, []
    try:
        yield
    finally:
        _here.snapshots = outer


@contextmanager
def _as_on_entering(snapshots: Sequence[Snapshot]) -> Iterator[None]:
    marks = [snapshot.mark() for snapshot in snapshots]
    try:
        yield
    finally:
        for snapshot, mark in zip(snapshots, marks, strict=True):
            snapshot.restore_mark(mark)


@contextmanager
def _kept(model: nn.Module, modules: Sequence[nn.Module], known: set[int]) -> Iterator[None]:
    """Keep what can be reached from the modules, as far as no outer context keeps it."""
    is_sharded = has_sharded(modules)
    scripted = [m for m in modules if isinstance(m, torch.jit.ScriptModule)]
    found = Reached(
        [model, *_held_by(scripted)], known, [m._parameters for m in modules] if is_sharded else ()
    )
    weights = {id(tensor) for tensor in _held_by([*modules, *found.modules])}
    readers = found.readers if not is_sharded and model not in _writers else []
    exposed = {id(tensor) for tensor in found.tensors}
    read = {id(p): p for m in found.readers for p in m._parameters.values() if p is not None}
    hidden = [tensor for key, tensor in read.items() if key not in exposed]
    if is_sharded:
        buffers = {id(t) for m in modules for t in m._buffers.values()}
        found.tensors = [tensor for tensor in found.tensors if id(tensor) in buffers]
    elif not readers:
        found.tensors += hidden
    with ExitStack() as stack:
        stack.enter_context(frozen([*found.tensors, *hidden]))
        stack.enter_context(silent_logging([*modules, *found.modules]))
        if is_sharded:
            stack.enter_context(no_waiting_hooks(modules))
        taken: list[Snapshot] = []
        found.tables += stack.enter_context(
            watched_parameters(readers, lambda some: taken[0].keep_now(some))
        )
        snapshot = Snapshot(found, weights, hidden if readers else (), keeps_tensors=not is_sharded)
        taken.append(snapshot)
        _here.snapshots.append(snapshot)
        try:
            yield
        finally:
            _here.snapshots.remove(snapshot)
            snapshot.restore()
            if any(id(tensor) in read for tensor in snapshot.lost):
                _writers.add(model)
            warn_of_lost(model, snapshot.lost)


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


def _held_by(modules: Sequence[nn.Module]) -> list[Tensor]:
    """Return the modules' own parameters and buffers."""
    return [
        tensor
        for module in modules
        for table in (module._parameters, module._buffers)
        for tensor in table.values()
        if tensor is not None
    ]


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
