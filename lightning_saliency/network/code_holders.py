"""What code keeps outside of objects: closures, attributes of classes, globals."""

from __future__ import annotations

from collections.abc import Sequence
from types import CellType
from typing import Any

from typing_extensions import override

from lightning_saliency.network.holders import MISSING, Holder, same_entries


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
