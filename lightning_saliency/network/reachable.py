"""Everything that Python reaches from a module: what it, its layers and its code keep."""

from __future__ import annotations

import array
import enum
import functools
import io
from collections import deque
from collections.abc import Callable, Collection, Iterable
from types import (
    BuiltinMethodType,
    CellType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor, nn

from lightning_saliency.network.attributes import is_left_alone, slots_of
from lightning_saliency.network.code_holders import GlobalNames
from lightning_saliency.network.visits import ATOMS, STREAMS, Visits

_Visit: TypeAlias = "Callable[[Reached, Any], None]"


class Reached(Visits):
    """What can be reached from some objects, by kinds.

    The search goes into modules, containers, objects' attributes, closures, and what the methods of
    the user's own classes name as globals or keep in the class. It stops at what belongs to the
    run (trainer, loggers, optimizers, loaders), to other threads, or to a library's machinery.

    Args:
        roots: where to begin.
        known: ids of objects that are looked after already; the search stops there.
        skipped: ids of containers that are not to be touched.
        named: also note how each object was reached, which takes twice as long.
    """

    def __init__(
        self,
        roots: Iterable[Any],
        known: Collection[int] = (),
        skipped: Iterable[Any] = (),
        *,
        named: bool = False,
    ) -> None:
        super().__init__(roots, skipped, named)
        self._search(known)
        self.holders += [
            GlobalNames(table, tuple(names)) for table, names in self._globals.values()
        ]

    def _search(self, known: Collection[int]) -> None:
        waiting, seen, kinds = self._waiting, self.seen, _kinds
        while waiting:
            value = waiting.pop()
            kind = type(value)
            visit = kinds.get(kind, _unknown)
            if visit is _unknown:
                visit = _remember(kind)
            key = id(value)
            if visit is None or key in seen or key in known:
                continue
            seen[key] = value
            visit(self, value)

    def path(self, thing: object) -> str:
        """Return how an object was reached, such as ``"encoder.cache"``; for ``named`` searches.

        Args:
            thing: that was reached.
        """
        steps: list[str] = []
        key = id(thing)
        while self._parents and key in self._parents and len(steps) < 50:
            key, step = self._parents[key]
            steps.append(step)
        return ".".join(step for step in reversed(steps) if step not in _UNNAMED_STEPS)


_UNNAMED_STEPS = {
    "_modules",
    "_parameters",
    "_buffers",
    "class",
    "function",
    "object",
    "attributes",
}


def _visit_of(kind: type) -> _Visit | None:
    """Return what visits objects of a class, None if they have no state that concerns us."""
    if kind in ATOMS or issubclass(kind, (ModuleType, enum.Enum)):
        return None
    for kinds, visit in _BY_KIND:
        if issubclass(kind, kinds):
            return visit
    if is_left_alone(kind):
        return None
    if hasattr(kind, "__next__"):
        return Reached._opaque
    has_state = kind.__dictoffset__ != 0 or bool(slots_of(kind))
    return Reached._object if has_state else None


# The first that fits; torch's own classes are named before what is left alone.
_BY_KIND: tuple[tuple[Any, _Visit], ...] = (
    (nn.Module, Reached._module),
    (Tensor, Reached._tensor),
    (STREAMS, Reached._stream),
    (dict, Reached._dict),
    ((list, deque, bytearray, array.array), Reached._sequence),
    (set, Reached._set),
    ((tuple, frozenset, MappingProxyType), Reached._frozen),
    (np.ndarray, Reached._array),
    (io.IOBase, Reached._file),
    (FunctionType, Reached._function),
    (CellType, Reached._cell),
    ((MethodType, BuiltinMethodType), Reached._method),
    (
        (
            *(functools.partial, functools.partialmethod, functools.cached_property),
            *(property, staticmethod, classmethod, type(functools.lru_cache(len))),
        ),
        Reached._wrapper,
    ),
    (type, Reached._class),
)


def _remember(kind: type) -> _Visit | None:
    if len(_kinds) >= _MOST_KINDS:
        # They would keep classes alive that their makers have forgotten.
        _kinds.clear()
    visit = _kinds[kind] = _visit_of(kind)
    return visit


_MOST_KINDS = 4096
_unknown: Any = object()
_kinds: dict[type, _Visit | None] = {}
