"""Settings of the whole process that a model or a user's method may change."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as torch_modules

from lightning_saliency.network.holders import OrderedEntries

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


_cudnn, _matmul = torch.backends.cudnn, torch.backends.cuda.matmul
_SETTINGS: list[_Setting] = [
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, _set_default_device),
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
    _flag(torch_modules, "_global_is_full_backward_hook"),
    (np.geterr, lambda value: np.seterr(**value)),
    (lambda: list(warnings.filters), _set_warning_filters),
    (os.getcwd, _set_directory),
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
    NumPy does about overflow, which warnings are shown, and the working directory. Only what has
    changed is set again.
    """
    before = [_read(get) for get, _ in _SETTINGS]
    hooks = [table.take() for table in _HOOK_TABLES]
    try:
        yield
    finally:
        for (get, put), value in zip(_SETTINGS, before, strict=True):
            if value is not _UNKNOWN and _read(get) != value:
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
