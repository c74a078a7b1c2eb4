"""Everything that Python reaches from a module: what it, its layers and its code keep."""

from __future__ import annotations

import array
import contextvars
import enum
import functools
import io
import random
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from types import (
    BuiltinMethodType,
    CellType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn

from lightning_saliency.network.isolation.holders import (
    ArrayValues,
    ClassAttributes,
    ClosureVariable,
    ContextValue,
    FilePosition,
    GlobalNames,
    Holder,
    MemoryFile,
    Numbers,
    OrderedEntries,
    RandomStream,
    SequenceEntries,
    SetEntries,
    SlotValues,
)
from lightning_saliency.network.isolation.iterators import copied_iterator
from lightning_saliency.network.isolation.user_code import globals_named_by, is_library, may_run
from lightning_saliency.network.isolation.weight_guard import only_reads_its_weights

# What belongs to the run, to other threads or to the machinery of a library.
_LEFT_ALONE = (
    *("lightning.", "lightning_fabric.", "pytorch_lightning.", "lightning_saliency."),
    *("torch.optim.", "torch.distributed.", "torch.utils.data.dataloader.", "torch.jit."),
    *("torch.utils.tensorboard.", "torch._dynamo.", "torch._inductor.", "torch._functorch."),
    *("torch.fx.", "torch._ops.", "torch._C.", "torch.cuda.", "tensorboard.", "wandb."),
    *("mlflow.", "comet_ml.", "neptune.", "clearml.", "aim.", "swanlab.", "optuna.", "ray."),
    *("sqlalchemy.", "grpc.", "requests.", "urllib3.", "botocore.", "redis.", "pymongo."),
    *("tqdm.", "rich.", "logging.", "threading.", "_thread."),
    *("multiprocessing.", "concurrent.", "queue.", "_queue.", "asyncio.", "weakref.", "_weakref."),
    *("socket.", "_socket.", "subprocess.", "contextvars.", "_contextvars.", "importlib."),
    *("ctypes.", "_ctypes.", "unittest.", "_pytest.", "pytest."),
)


def is_left_alone(kind: type) -> bool:
    """Whether objects of a class belong to the run, to other threads or to a library's machinery.

    Args:
        kind: a class; one that is derived from such a class is left alone, too.
    """
    return any(
        f"{each.__module__}.".startswith(_LEFT_ALONE)
        for each in kind.__mro__
        if each.__module__ != "builtins"
    )


def attributes_of(thing: Any) -> dict[str, Any] | None:
    """Return the dict of an object's attributes, None if it has none.

    Args:
        thing: of any class, whatever that does when it is asked for an attribute.
    """
    try:
        table = object.__getattribute__(thing, "__dict__")
    except AttributeError:
        return None
    return table if type(table) is dict else None


def slots_of(kind: type) -> tuple[MemberDescriptorType, ...]:
    """Return what gives access to the attributes that a class keeps in ``__slots__``.

    Args:
        kind: a class.
    """
    found = _slots.get(kind)
    if found is None:
        if len(_slots) >= _MOST_CLASSES:
            # It would keep classes alive that their makers have forgotten.
            _slots.clear()
        found = _slots[kind] = tuple(
            value
            for each in kind.__mro__
            if "__slots__" in vars(each)
            for value in vars(each).values()
            if isinstance(value, MemberDescriptorType)
        )
    return found


_MOST_CLASSES = 4096
_slots: dict[type, tuple[MemberDescriptorType, ...]] = {}


MOST_SEARCHED = 10_000
"""Of a container with more entries than this the entries are kept, but not looked into."""

ATOMS = {
    *(type(None), bool, int, float, complex, str, bytes, range, slice),
    *(torch.dtype, torch.device, torch.layout, torch.Size, torch.memory_format, ModuleType),
}
"""Immutable kinds, by far the most common; modules are full of them."""

STREAMS = (
    *(torch.Generator, random.Random, np.random.Generator, np.random.RandomState),
    np.random.BitGenerator,
)
"""Kinds of generators of random numbers."""

_PLAIN = {dict, list, set, OrderedDict}
_LOCKS = (type(threading.Lock()), type(threading.RLock()), threading.Condition, threading.Event)


class Visits:
    """What has been found so far, and what is still to be looked at.

    Attributes:
        modules: all modules of torch.
        tables: dicts, those of objects' attributes among them, that had entries.
        empty: containers that had none.
        holders: whatever else keeps state.
        tensors: all tensors, parameters and buffers of the modules among them, but for
            parameters that are reached through the tables of the next ones alone.
        readers: modules that only read their parameters.
        opaque: what has state that cannot be put back, such as a running generator.
        iterators: that can be copied, though not put back.
        seen: everything, by id.
    """

    def __init__(self, roots: Iterable[Any], skipped: Iterable[Any], named: bool) -> None:
        self.modules: list[nn.Module] = []
        self.tables: list[dict[Any, Any]] = []
        self.empty: list[Any] = []
        self.holders: list[Holder] = []
        self.tensors: list[Tensor] = []
        self.readers: list[nn.Module] = []
        self.opaque: list[Any] = []
        self.iterators: list[Any] = []
        self.seen: dict[int, Any] = {id(each): each for each in skipped}
        self._globals: dict[int, tuple[dict[str, Any], dict[str, None]]] = {}
        self._parents: dict[int, tuple[int, str]] | None = {} if named else None
        self._waiting = list(roots)

    def _add(self, owner: object, values: Iterable[Any], labels: Iterable[Any]) -> None:
        empty, waiting, parents = self.empty, self._waiting, self._parents
        for value in values:
            kind = type(value)
            if kind in ATOMS:
                continue
            if kind in _PLAIN and not value:
                empty.append(value)
            else:
                waiting.append(value)
        if parents is not None:
            for label, value in zip(labels, values, strict=False):
                parents.setdefault(id(value), (id(owner), str(label)))

    def _module(self, module: nn.Module) -> None:
        self.modules.append(module)
        table = module.__dict__
        self.tables.append(table)
        if only_reads_its_weights(module) and self._parents is None:
            self.seen.setdefault(id(table["_parameters"]), table["_parameters"])
            self.readers.append(module)
            for parameter in table["_parameters"].values():
                own = attributes_of(parameter)
                if own:
                    self._add(parameter, own.values(), own)
        if not isinstance(module, torch.jit.ScriptModule):
            self._add(module, table.values(), table.keys())
        if id(type(module)) not in self.seen:
            self._add(module, (type(module),), ("class",))

    def _dict(self, table: dict[Any, Any]) -> None:
        if isinstance(table, OrderedDict):
            self.holders.append(OrderedEntries(table))
        elif table or type(table) is not dict:
            self.tables.append(table)
        else:
            self.empty.append(table)
        if len(table) <= MOST_SEARCHED:
            self._add(table, dict.values(table), dict.keys(table))
        if type(table) is not dict:
            self._attributes(table)

    def _sequence(self, entries: Any) -> None:
        self.holders.append(SequenceEntries(entries))
        if len(entries) <= MOST_SEARCHED:
            self._add(entries, entries, range(len(entries)))
        if type(entries) is not list:
            self._attributes(entries)

    def _numbers(self, numbers: Any) -> None:
        self.holders.append(Numbers(numbers))
        self._attributes(numbers)

    def _set(self, members: set[Any]) -> None:
        self.holders.append(SetEntries(members))
        self._frozen(members)

    def _frozen(self, entries: Any) -> None:
        """Look into what cannot change itself, such as a tuple."""
        if len(entries) <= MOST_SEARCHED:
            values = entries.values() if isinstance(entries, MappingProxyType) else entries
            self._add(entries, values, range(len(entries)))
        if type(entries) not in (tuple, set, frozenset):
            self._attributes(entries)

    def _tensor(self, tensor: Tensor) -> None:
        self.tensors.append(tensor)
        table = attributes_of(tensor)
        if table:
            self._add(tensor, table.values(), table.keys())

    def _array(self, numbers: np.ndarray[Any, Any]) -> None:
        self.holders.append(ArrayValues(numbers))
        if numbers.dtype.hasobject and numbers.size <= MOST_SEARCHED:
            self._add(numbers, list(numbers.flat), range(numbers.size))

    def _stream(self, stream: Any) -> None:
        self.holders.append(RandomStream(stream))

    def _file(self, file: Any) -> None:
        try:
            keeps = file.readable() and file.seekable() and not file.writable()
        except (ValueError, AttributeError):
            # Closed, or not one that behaves.
            return
        if isinstance(file, (io.BytesIO, io.StringIO)):
            self.holders.append(MemoryFile(file))
        elif not keeps:
            self.opaque.append(file)
        else:
            self.holders.append(FilePosition(file))

    def _function(self, function: FunctionType) -> None:
        cells = function.__closure__ or ()
        self._add(function, cells, function.__code__.co_freevars)
        self._add(function, function.__defaults__ or (), function.__code__.co_varnames)
        keywords = function.__kwdefaults__ or {}
        self._add(function, keywords.values(), keywords)
        self._add(function, (function.__dict__,), ("attributes",))
        if not is_library(function.__module__):
            for table, names in globals_named_by(function):
                self._globals.setdefault(id(table), (table, {}))[1].update(dict.fromkeys(names))
                self._add(table, [table.get(name) for name in names], names)

    def _cell(self, cell: CellType) -> None:
        holder = ClosureVariable(cell)
        self.holders.append(holder)
        self._add(cell, (holder.take(),), ("closure",))

    def _method(self, method: MethodType | BuiltinMethodType) -> None:
        self._add(method, (method.__self__,), ("object",))
        if isinstance(method, MethodType):
            self._add(method, (method.__func__,), ("function",))

    def _wrapper(self, wrapper: Any) -> None:
        names = ("func", "args", "keywords", "fget", "fset", "__func__", "__wrapped__")
        for name in names:
            self._add(wrapper, (getattr(wrapper, name, None),), (name,))

    def _class(self, kind: type) -> None:
        for each in kind.__mro__:
            if is_library(each.__module__) or issubclass(each, enum.Enum):
                continue
            if id(each) in self.seen and each is not kind:
                continue
            self.seen[id(each)] = each
            self.holders.append(ClassAttributes(each))
            own = {name: value for name, value in vars(each).items() if may_run(name)}
            self._add(each, own.values(), own.keys())

    def _object(self, thing: Any) -> None:
        table = attributes_of(thing)
        if table and any(isinstance(value, _LOCKS) for value in table.values()):
            # Other threads work with it.
            self.opaque.append(thing)
            return
        self._attributes(thing)
        self._add(thing, (type(thing),), ("class",))

    def _attributes(self, thing: Any) -> None:
        table = attributes_of(thing)
        if table:
            if id(table) not in self.seen:
                self.seen[id(table)] = table
                self.tables.append(table)
                self._add(thing, table.values(), table.keys())
        elif table is not None:
            self.empty.append(table)
        descriptors = slots_of(type(thing))
        if descriptors:
            holder = SlotValues(thing, descriptors)
            self.holders.append(holder)
            self._add(thing, holder.take(), (each.__name__ for each in descriptors))

    def _view(self, view: memoryview) -> None:
        self._add(view, (view.obj,), ("memory",))

    def _context_variable(self, variable: Any) -> None:
        holder = ContextValue(variable)
        self.holders.append(holder)
        self._add(variable, (holder.take(),), ("value",))

    def _thread_local(self, values: Any) -> None:
        # Those of the thread that explains.
        self._add(values, (values.__dict__, type(values)), ("values", "class"))

    def _iterator(self, iterator: Any) -> None:
        can_be_copied = copied_iterator(iterator) is not None
        (self.iterators if can_be_copied else self.opaque).append(iterator)


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
    has_state = kind.__dictoffset__ != 0 or bool(slots_of(kind))
    if hasattr(kind, "__next__") and not has_state:
        return Reached._iterator
    return Reached._object if has_state else None


# The first that fits; torch's own classes are named before what is left alone.
_BY_KIND: tuple[tuple[Any, _Visit], ...] = (
    (nn.Module, Reached._module),
    (Tensor, Reached._tensor),
    (STREAMS, Reached._stream),
    (dict, Reached._dict),
    ((list, deque), Reached._sequence),
    ((bytearray, array.array), Reached._numbers),
    (memoryview, Reached._view),
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
    (contextvars.ContextVar, Reached._context_variable),
    (threading.local, Reached._thread_local),
    ((WeakKeyDictionary, WeakValueDictionary), Reached._object),
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
