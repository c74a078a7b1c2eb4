"""What keeps state: objects, closures, classes, globals, random streams, files, arrays.

Of each kind what it keeps can be taken, compared and put back.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from operator import is_
from types import CellType
from typing import Any, Protocol

import numpy as np
import torch
from typing_extensions import override

MISSING: Any = object()
"""Stands for an attribute that is not there."""


class Holder(Protocol):
    """Something that keeps state.

    Attributes:
        owner: the object whose state it is.
    """

    owner: Any

    def take(self) -> Any:
        """Return what is kept now, in a form that later changes do not reach."""

    def same(self, kept: Any) -> bool:
        """Whether what is kept now is what :meth:`take` gave."""

    def put(self, kept: Any) -> None:
        """Keep what :meth:`take` gave."""


def same_entries(one: Iterable[Any], other: Iterable[Any]) -> bool:
    """Whether two iterables of one length have the very same objects."""
    return all(map(is_, one, other))


def restore_dict(table: dict[Any, Any], entries: dict[Any, Any]) -> None:
    """Give a dict these entries, in their order, whatever its class does with them.

    Args:
        table: is changed; no ``OrderedDict``.
        entries: its entries from now on.
    """
    if list(table) != list(entries):
        dict.clear(table)
    dict.update(table, entries)


class OrderedEntries(Holder):
    """The entries of an ``OrderedDict``."""

    def __init__(self, owner: OrderedDict[Any, Any]) -> None:
        self.owner = owner

    @override
    def take(self) -> list[tuple[Any, Any]]:
        return list(OrderedDict.items(self.owner))

    @override
    def same(self, kept: list[tuple[Any, Any]]) -> bool:
        now = self.take()
        return len(now) == len(kept) and all(
            mine[0] is its[0] and mine[1] is its[1] for mine, its in zip(now, kept, strict=True)
        )

    @override
    def put(self, kept: list[tuple[Any, Any]]) -> None:
        OrderedDict.clear(self.owner)
        for key, value in kept:
            OrderedDict.__setitem__(self.owner, key, value)


class Numbers(Holder):
    """The numbers in a bytearray or an array of Python's own."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    @override
    def take(self) -> Any:
        return self.owner[:]

    @override
    def same(self, kept: Any) -> bool:
        # As bytes: a number that is none equals itself.
        return len(self.owner) == len(kept) and bytes(self.owner) == bytes(kept)

    @override
    def put(self, kept: Any) -> None:
        self.owner[:] = kept


class SequenceEntries(Holder):
    """The entries of a list or deque."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    @override
    def take(self) -> Sequence[Any]:
        return tuple(self.owner)

    @override
    def same(self, kept: Sequence[Any]) -> bool:
        return len(self.owner) == len(kept) and same_entries(self.owner, kept)

    @override
    def put(self, kept: Sequence[Any]) -> None:
        if isinstance(self.owner, list):
            list.__setitem__(self.owner, slice(None), kept)
        else:
            deque.clear(self.owner)
            deque.extend(self.owner, kept)


class SetEntries(Holder):
    """The members of a set."""

    def __init__(self, owner: set[Any]) -> None:
        self.owner = owner

    @override
    def take(self) -> set[Any]:
        return set(self.owner)

    @override
    def same(self, kept: set[Any]) -> bool:
        return len(self.owner) == len(kept) and set.issuperset(self.owner, kept)

    @override
    def put(self, kept: set[Any]) -> None:
        set.clear(self.owner)
        set.update(self.owner, kept)


class SlotValues(Holder):
    """The attributes of an object that has them in ``__slots__``."""

    def __init__(self, owner: Any, descriptors: Sequence[Any]) -> None:
        self.owner, self._descriptors = owner, descriptors

    @override
    def take(self) -> list[Any]:
        return [self._value(descriptor) for descriptor in self._descriptors]

    def _value(self, descriptor: Any) -> Any:
        try:
            return descriptor.__get__(self.owner)
        except AttributeError:
            return MISSING

    @override
    def same(self, kept: list[Any]) -> bool:
        return same_entries(self.take(), kept)

    @override
    def put(self, kept: list[Any]) -> None:
        for descriptor, now, value in zip(self._descriptors, self.take(), kept, strict=True):
            if value is MISSING and now is not MISSING:
                descriptor.__delete__(self.owner)
            elif value is not now:
                # Not by setattr, which a frozen class refuses.
                descriptor.__set__(self.owner, value)


class ClosureVariable(Holder):
    """A variable of a function around the function."""

    def __init__(self, owner: CellType) -> None:
        self.owner = owner

    @override
    def take(self) -> Any:
        try:
            return self.owner.cell_contents
        except ValueError:
            return MISSING

    @override
    def same(self, kept: Any) -> bool:
        return self.take() is kept

    @override
    def put(self, kept: Any) -> None:
        if kept is MISSING:
            del self.owner.cell_contents
        else:
            self.owner.cell_contents = kept


class ClassAttributes(Holder):
    """What a class has under its own names."""

    def __init__(self, owner: type) -> None:
        self.owner = owner

    @override
    def take(self) -> dict[str, Any]:
        return dict(vars(self.owner))

    @override
    def same(self, kept: dict[str, Any]) -> bool:
        now = vars(self.owner)
        return len(now) == len(kept) and same_entries(now.values(), kept.values())

    @override
    def put(self, kept: dict[str, Any]) -> None:
        now = dict(vars(self.owner))
        for name in now.keys() - kept.keys():
            type.__delattr__(self.owner, name)
        for name, value in kept.items():
            if now.get(name, MISSING) is not value:
                type.__setattr__(self.owner, name, value)


class GlobalNames(Holder):
    """Some of the globals of a module of Python."""

    def __init__(self, owner: dict[str, Any], names: Sequence[str]) -> None:
        self.owner, self._names = owner, names

    @override
    def take(self) -> list[Any]:
        return [self.owner.get(name, MISSING) for name in self._names]

    @override
    def same(self, kept: list[Any]) -> bool:
        return same_entries(self.take(), kept)

    @override
    def put(self, kept: list[Any]) -> None:
        for name, value in zip(self._names, kept, strict=True):
            if value is MISSING:
                self.owner.pop(name, None)
            else:
                self.owner[name] = value


class ContextValue(Holder):
    """What a ``contextvars.ContextVar`` is in the context of this thread."""

    def __init__(self, owner: ContextVar[Any]) -> None:
        self.owner = owner

    @override
    def take(self) -> Any:
        try:
            return self.owner.get()
        except LookupError:
            return MISSING

    @override
    def same(self, kept: Any) -> bool:
        return self.take() is kept

    @override
    def put(self, kept: Any) -> None:
        if kept is MISSING:
            raise ValueError(f"the context variable '{self.owner.name}', which had no value")
        # If it had the one that it has by default, that is the same to whoever asks.
        self.owner.set(kept)


class RandomStream(Holder):
    """The state of a generator of random numbers of the model's own."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    @override
    def take(self) -> Any:
        if isinstance(self.owner, torch.Generator):
            return self.owner.get_state()
        if isinstance(self.owner, random.Random):
            return self.owner.getstate()
        if isinstance(self.owner, np.random.Generator):
            return self.owner.bit_generator.state
        if isinstance(self.owner, np.random.RandomState):
            return self.owner.get_state(legacy=False)
        return self.owner.state

    @override
    def same(self, kept: Any) -> bool:
        now = self.take()
        return torch.equal(now, kept) if isinstance(now, torch.Tensor) else repr(now) == repr(kept)

    @override
    def put(self, kept: Any) -> None:
        if isinstance(self.owner, torch.Generator):
            self.owner.set_state(kept)
        elif isinstance(self.owner, random.Random):
            self.owner.setstate(kept)
        elif isinstance(self.owner, np.random.Generator):
            self.owner.bit_generator.state = kept
        elif isinstance(self.owner, np.random.RandomState):
            self.owner.set_state(kept)
        else:
            self.owner.state = kept


class FilePosition(Holder):
    """Where a file that is open for reading is read next."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    @override
    def take(self) -> Any:
        try:
            return MISSING if self.owner.closed else self.owner.tell()
        except (OSError, ValueError):
            return MISSING

    @override
    def same(self, kept: Any) -> bool:
        return bool(self.take() == kept)

    @override
    def put(self, kept: Any) -> None:
        if kept is not MISSING:
            self.owner.seek(kept)


class MemoryFile(Holder):
    """The contents of an ``io.BytesIO`` or ``io.StringIO``, and where it is read next."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    @override
    def take(self) -> Any:
        return MISSING if self.owner.closed else (self.owner.getvalue(), self.owner.tell())

    @override
    def same(self, kept: Any) -> bool:
        return bool(self.take() == kept)

    @override
    def put(self, kept: Any) -> None:
        if kept is MISSING:
            self.owner.close()
            return
        contents, place = kept
        self.owner.seek(0)
        self.owner.truncate()
        self.owner.write(contents)
        self.owner.seek(place)


class ArrayValues(Holder):
    """The numbers of an array of NumPy."""

    def __init__(self, owner: np.ndarray[Any, Any]) -> None:
        self.owner = owner
        # Not by the methods of a class of its own.
        self._numbers = np.asarray(owner)

    @override
    def take(self) -> np.ndarray[Any, Any]:
        return self._numbers.copy()

    @override
    def same(self, kept: np.ndarray[Any, Any]) -> bool:
        if self.owner.shape != kept.shape or self.owner.dtype != kept.dtype:
            return False
        if self.owner.dtype.hasobject:
            return same_entries(self._numbers.flat, kept.flat)
        return self._numbers.tobytes() == kept.tobytes()

    @override
    def put(self, kept: np.ndarray[Any, Any]) -> None:
        if self.owner.shape != kept.shape:
            self.owner.resize(kept.shape, refcheck=False)
        np.asarray(self.owner)[...] = kept
