"""What an object keeps, as something that can be taken, compared and put back."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from operator import is_
from typing import Any, Protocol

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


class SequenceEntries(Holder):
    """The entries of a list, deque, bytearray or array."""

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
        elif isinstance(self.owner, deque):
            deque.clear(self.owner)
            deque.extend(self.owner, kept)
        else:
            self.owner[:] = type(self.owner)(kept)


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
