"""A walk over everything that an object keeps, as values to compare between runs.

Written apart from the package's own search, and slower: it names every place.
"""

from __future__ import annotations

import functools
import io
import itertools
import random
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from traces import bits

# What belongs to the run, or changes by itself from run to run.
_SKIPPED_NAMES = {
    *("_trainer", "_fabric", "_iterator", "__weakref__", "__dict__", "__doc__", "__module__"),
    *("_abc_impl", "__annotations__", "__annotations_cache__", "__annotate__", "__firstlineno__"),
}
_SKIPPED_MODULES = ("lightning.", "threading", "_thread", "weakref", "multiprocessing", "torch._")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def everything(thing: object, name: str = "") -> dict[str, object]:
    """Return all that is kept, by the place where it is found."""
    found: dict[str, object] = {}
    seen: dict[int, str] = {}
    # They are kept alive, so that no id is given twice.
    alive: list[object] = []
    waiting = [(name, thing)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, _PLAIN):
            found[name] = repr(value)
        elif isinstance(value, types.ModuleType):
            found[name] = value.__name__
        elif id(value) in seen:
            found[name] = f"what is at '{seen[id(value)]}'"
        else:
            seen[id(value)] = name
            alive.append(value)
            found[name] = _of_itself(value)
            waiting += [(f"{name}.{key}" if name else str(key), v) for key, v in _inside(value)]
    return found


def _of_itself(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            value = value.to_dense()
        hooks = len(value._backward_hooks or ()), len(value._post_accumulate_grad_hooks or ())
        needs = value.requires_grad, value.is_leaf
        return f"{kind} {bits(value)} {needs} {hooks} {value.stride()}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {value.tobytes()!r}" if value.dtype != object else kind
    if isinstance(value, torch.Generator):
        return bits(value.get_state())
    if isinstance(value, random.Random):
        return repr(value.getstate())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state()[1].tolist()) + repr(value.get_state()[2:])
    if isinstance(value, io.IOBase):
        return f"{kind} {value.closed or value.tell()}"
    if isinstance(value, (bytearray, range, torch.Size)):
        return repr(value)
    if isinstance(value, (set, frozenset)):
        return repr(sorted(map(repr, value)))
    if isinstance(value, (dict, list, tuple, deque)):
        return f"{kind} of {len(value)}"
    return kind


def _inside(value: Any) -> Iterator[tuple[object, Any]]:
    module = type(value).__module__
    if isinstance(value, dict):
        yield from ((k, v) for k, v in value.items() if k not in _SKIPPED_NAMES)
    elif isinstance(value, (list, tuple, deque)):
        yield from enumerate(value)
    elif isinstance(value, np.ndarray) and value.dtype == object:
        yield from enumerate(value.flat)
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, types.CellType):
        yield "cell", value.cell_contents
    elif isinstance(value, (types.MethodType, types.BuiltinMethodType)):
        yield "self", value.__self__
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, type):
        if _is_of_a_test(value.__module__):
            yield from ((k, v) for k, v in vars(value).items() if k not in _SKIPPED_NAMES)
    elif isinstance(value, Tensor):
        yield "grad", value.grad if value.is_leaf else None
    elif isinstance(value, nn.Module) or not module.startswith(_SKIPPED_MODULES):
        if _is_of_a_test(module):
            yield "class", type(value)
        yield from _attributes(value)


def _of_function(function: types.FunctionType) -> Iterator[tuple[object, Any]]:
    yield "closure", function.__closure__
    yield "defaults", (function.__defaults__, function.__kwdefaults__)
    yield "attributes", vars(function)
    if _is_of_a_test(function.__module__):
        names = (name for name in function.__code__.co_names if name in function.__globals__)
        yield from ((name, function.__globals__[name]) for name in names if name not in ("torch",))


def _attributes(value: Any) -> Iterator[tuple[object, Any]]:
    slots = itertools.chain.from_iterable(
        [kind.__slots__] if isinstance(kind.__slots__, str) else kind.__slots__
        for kind in type(value).__mro__
        if "__slots__" in vars(kind)
    )
    own = getattr(value, "__dict__", {})
    for name in (*own, *slots):
        if name not in _SKIPPED_NAMES and hasattr(value, name):
            yield name, own[name] if name in own else getattr(value, name)


def _is_of_a_test(module: str | None) -> bool:
    return module is not None and (
        module.startswith(("test_", "stateful_models", "tiny_models", "untouched", "cells"))
        or module == "__main__"
    )
