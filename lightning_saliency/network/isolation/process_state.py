"""What the whole process shares: random streams, settings, and switches for a while."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch.nn.modules import module as torch_modules

from lightning_saliency.network.isolation.holders import OrderedEntries


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


_Setting = tuple[Callable[[], Any], Callable[[Any], object]]


def _flag(owner: Any, name: str) -> _Setting:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _default_device() -> torch.device:
    try:
        return torch.get_default_device()
    except AttributeError:
        # torch before 2.7, once it was set back.
        return torch.device("cpu")


def _set_default_device(device: torch.device) -> None:
    # What was not set is reported as the CPU.
    torch.set_default_device(None if device.type == "cpu" else device)


def _set_warning_filters(filters: list[Any]) -> None:
    warnings.resetwarnings()
    warnings.filters.extend(filters)  # type: ignore[attr-defined]


def _set_directory(path: str) -> None:
    # It may be gone.
    with suppress(OSError):
        os.chdir(path)


# As the system has them: to decode each of them takes longer than all other settings.
_variables: Any = getattr(os.environ, "_data", os.environ)


def _set_environment(before: dict[Any, Any]) -> None:
    encoded = _variables is not os.environ

    def name(key: Any) -> str:
        return str(os.environ.decodekey(key)) if encoded else str(key)

    for key in [key for key in _variables if key not in before]:
        del os.environ[name(key)]
    for key, value in before.items():
        if _variables.get(key) != value:
            os.environ[name(key)] = os.environ.decodevalue(value) if encoded else value


def _set_collecting(is_on: bool) -> None:
    if is_on:
        gc.enable()
    else:
        gc.disable()


_DENORMAL = 5e-324


def _flushes_denormal() -> bool:
    # There is no other way to ask; torch sets it for all numbers of the thread.
    return _DENORMAL * 1.0 == 0.0


_cudnn, _matmul = torch.backends.cudnn, torch.backends.cuda.matmul
_SETTINGS: list[_Setting] = [
    (torch.get_default_dtype, torch.set_default_dtype),
    (_default_device, _set_default_device),
    (torch.get_num_threads, torch.set_num_threads),
    (_deterministic, _set_deterministic),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.is_warn_always_enabled, torch.set_warn_always),
    _flag(_cudnn, "enabled"),
    _flag(_cudnn, "benchmark"),
    _flag(_cudnn, "deterministic"),
    _flag(_cudnn, "allow_tf32"),
    _flag(_matmul, "allow_tf32"),
    _flag(_matmul, "allow_fp16_reduced_precision_reduction"),
    _flag(_matmul, "allow_bf16_reduced_precision_reduction"),
    _flag(torch.utils.deterministic, "fill_uninitialized_memory"),
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
    (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    _flag(torch.backends.mkldnn, "enabled"),
    (_flushes_denormal, torch.set_flush_denormal),
    _flag(torch_modules, "_global_is_full_backward_hook"),
    (
        lambda: dict(vars(torch._tensor_str.PRINT_OPTS)),
        lambda value: vars(torch._tensor_str.PRINT_OPTS).update(value),
    ),
    (np.get_printoptions, lambda value: np.set_printoptions(**value)),
    (np.geterr, lambda value: np.seterr(**value)),
    (lambda: list(warnings.filters), _set_warning_filters),
    (os.getcwd, _set_directory),
    (lambda: dict(_variables), _set_environment),
    (gc.isenabled, _set_collecting),
    (lambda: list(sys.path), lambda value: sys.path.__setitem__(slice(None), value)),
    (sys.getrecursionlimit, sys.setrecursionlimit),
]
_HOOK_TABLES = [
    OrderedEntries(table)
    for name, table in vars(torch_modules).items()
    if name.startswith("_global_") and isinstance(table, OrderedDict)
]


@contextmanager
def preserved_settings() -> Iterator[None]:
    """Restore on leaving what torch, NumPy and ``warnings`` keep for the whole process.

    Precision, determinism, number of threads, default dtype and device, hooks on all modules, what
    NumPy does about overflow, how numbers are printed, which warnings are shown, the working
    directory, the environment, where modules are looked for, whether garbage is collected and how
    deep functions may call each other. Only what has changed is set again.
    """
    before = [_read(get) for get, _ in _SETTINGS]
    hooks = [table.take() for table in _HOOK_TABLES]
    try:
        yield
    finally:
        for (get, put), value in zip(_SETTINGS, before, strict=True):
            if value is not _UNKNOWN and _read(get) != value:
                # Refused where somebody has frozen torch's settings.
                with suppress(RuntimeError):
                    put(value)
        for table, entries in zip(_HOOK_TABLES, hooks, strict=True):
            if not table.same(entries):
                table.put(entries)


_UNKNOWN: Any = object()


def _read(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except (RuntimeError, OSError):
        # Some of torch's settings cannot be read once they have been set by their newer names, and
        # the working directory not once it has been removed.
        return _UNKNOWN


class SharedSwitch:
    """Something of the whole process that is switched as long as any thread wants it so.

    The first thread switches, the last one switches back, in whatever order they end.

    Args:
        switch: switches, and returns what switches back.
    """

    def __init__(self, switch: Callable[[], Callable[[], object]]) -> None:
        self._switch = switch
        self._lock = threading.Lock()
        self._users = 0
        self._back: Callable[[], object] = bool

    @contextmanager
    def on(self) -> Iterator[None]:
        """Have it switched inside."""
        with self._lock:
            if self._users == 0:
                self._back = self._switch()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._back()


def eager_code() -> Any:
    """Run compiled modules eagerly: a hook that is added later is skipped by compiled code.

    While one thread is inside, compiled code of other threads runs eagerly, too.
    """
    return _eager.on()


def no_anomaly_detection() -> Any:
    """Switch anomaly detection off, for which a map of a broken sample would end a run."""
    return _anomaly.on()


@contextmanager
def kept_activations() -> Iterator[None]:
    """Let parts of the model that are checkpointed the reentrant way run as if they were not.

    Such a checkpoint refuses gradients with respect to an image; of the few images that are
    explained, the activations can be kept. Other checkpoints need no help. In other threads they
    are checkpointed as ever.
    """
    with _checkpoints.on():
        _here.depth = getattr(_here, "depth", 0) + 1
        try:
            yield
        finally:
            _here.depth -= 1


_here = threading.local()


def _switch_compiler() -> Callable[[], object]:
    stance = torch.compiler.set_stance("force_eager")
    return lambda: stance.__exit__(None, None, None)


def _switch_anomaly() -> Callable[[], object]:
    before = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    if before[0]:
        torch.autograd.set_detect_anomaly(False)

    def back() -> None:
        if before != (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()):
            torch.autograd.set_detect_anomaly(*before)

    return back


def _switch_checkpoints() -> Callable[[], object]:
    checkpoints: Any = torch.utils.checkpoint
    original = checkpoints.CheckpointFunction

    class RunsOnce:
        """Takes the place of the autograd function of reentrant checkpoints."""

        @staticmethod
        def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
            if getattr(_here, "depth", 0):
                return function(*args)
            return original.apply(function, preserve_rng_state, *args)

    def back() -> None:
        # Unless somebody else has put something in its place since.
        if checkpoints.CheckpointFunction is RunsOnce:
            checkpoints.CheckpointFunction = original

    checkpoints.CheckpointFunction = RunsOnce
    return back


_eager = SharedSwitch(_switch_compiler)
_anomaly = SharedSwitch(_switch_anomaly)
_checkpoints = SharedSwitch(_switch_checkpoints)
