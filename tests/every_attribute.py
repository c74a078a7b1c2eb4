"""A walk over everything that an object keeps, as values to compare between runs.

Written apart from the package's own search, and slower: it names every place.
"""

from __future__ import annotations

import functools
import io
import itertools
import random
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from traces import bits

# What belongs to the run, or changes by itself from run to run.
_SKIPPED_NAMES = {
    *("_trainer", "_fabric", "_iterator", "__weakref__", "__dict__", "__doc__", "__module__"),
    "_torchdynamo_wrapper_id",
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
    for kinds, describe in _DESCRIBED:
        if isinstance(value, kinds):
            return f"{type(value).__name__} {describe(value)}"
    return type(value).__name__


def _of_tensor(value: Tensor) -> str:
    if value.layout is not torch.strided:
        value = value.to_dense()
    hooks = len(value._backward_hooks or ()), len(value._post_accumulate_grad_hooks or ())
    return f"{bits(value)} {value.requires_grad} {value.is_leaf} {hooks} {value.stride()}"


def _of_array(value: np.ndarray[Any, Any]) -> str:
    numbers = "" if value.dtype == object else repr(value.tobytes())
    return f"{value.dtype} {value.shape} {numbers}"


_DESCRIBED: list[tuple[Any, Callable[[Any], object]]] = [
    (Tensor, _of_tensor),
    (np.ndarray, _of_array),
    (torch.Generator, lambda value: bits(value.get_state())),
    (random.Random, lambda value: value.getstate()),
    (np.random.Generator, lambda value: value.bit_generator.state),
    (np.random.RandomState, lambda value: list(map(str, value.get_state()))),
    (io.IOBase, lambda value: value.closed or value.tell()),
    ((bytearray, range, torch.Size), repr),
    ((set, frozenset), lambda value: sorted(map(repr, value))),
    ((dict, list, tuple, deque), len),
]


def _inside(value: Any) -> Iterator[tuple[object, Any]]:
    for kinds, parts in _PARTS:
        if isinstance(value, kinds):
            yield from parts(value)
            return
    kind = type(value)
    if isinstance(value, nn.Module) or not kind.__module__.startswith(_SKIPPED_MODULES):
        if _is_of_a_test(kind.__module__):
            yield "class", kind
        yield from _attributes(value)


def _of_class(kind: type) -> Iterator[tuple[object, Any]]:
    return _named(vars(kind)) if _is_of_a_test(kind.__module__) else iter(())


def _ordered(table: Mapping[Any, Any]) -> Iterable[tuple[object, Any]]:
    numbers = all(isinstance(name, int) for name in table)
    return enumerate(table.values()) if numbers else _named(table)


def _named(table: Mapping[str, Any]) -> Iterator[tuple[object, Any]]:
    return ((name, value) for name, value in table.items() if name not in _SKIPPED_NAMES)


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


_PARTS: list[tuple[Any, Callable[[Any], Iterable[tuple[object, Any]]]]] = [
    (RemovableHandle, lambda value: ()),
    # Of hooks, by their order: what they are called counts all hooks of the process.
    (OrderedDict, _ordered),
    (dict, _named),
    ((list, tuple, deque), enumerate),
    (np.ndarray, lambda value: enumerate(value.flat) if value.dtype == object else ()),
    (types.FunctionType, _of_function),
    (types.CellType, lambda value: [("cell", value.cell_contents)]),
    ((types.MethodType, types.BuiltinMethodType), lambda value: [("self", value.__self__)]),
    (
        functools.partial,
        lambda value: [("f", value.func), ("args", value.args), ("keywords", value.keywords)],
    ),
    (type, _of_class),
    (Tensor, lambda value: [("grad", value.grad if value.is_leaf else None)]),
]
