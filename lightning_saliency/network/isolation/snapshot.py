"""One snapshot of everything that Python reaches from a model, and its way back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from operator import is_
from typing import Any

from torch import Tensor, nn

from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.network.isolation.holders import restore_dict
from lightning_saliency.network.isolation.iterators import copied_iterator
from lightning_saliency.network.isolation.reachable import Reached
from lightning_saliency.network.isolation.tensors import (
    KeptTensors,
    TensorMark,
    WatchedTensors,
    which_changed,
)


@dataclass
class Mark:
    """How things stood at one time, as far as they were not as in the snapshot.

    Attributes:
        classes: of the modules.
        tables: by place, the entries.
        empty: containers that were empty in the snapshot, and their entries.
        holders: by place, what was kept.
        tensors: how they stood.
        iterators: that ran.
    """

    classes: list[type]
    tables: dict[int, dict[Any, Any]]
    empty: list[tuple[Any, list[Any]]]
    holders: dict[int, Any]
    tensors: list[TensorMark]
    iterators: list[Any]


class Snapshot:
    """The state of a model in Python, as it was when this was made.

    A flag and the hooks that it stands for, containers and what is in them, values, memory and
    hooks of tensors, random generators, closures, attributes of classes and globals that the user's
    methods name: all of one time, and all put back together. What objects there are stays: a list
    that has grown is the same list afterwards, without what it gained.

    Args:
        reached: what is looked after.
        weights: ids of tensors that are copied however large they are.
        watched: tensors that nobody but the layers that read them can lay hands on, until
            :meth:`keep_now`.
        keeps_tensors: False leaves tensors as they come, those among the modules' attributes and
            their values: of a sharded module the run sees to them.

    Attributes:
        reached: what is looked after.
        ids: of everything that was found.
        lost: tensors that were written to and could not be put back, after :meth:`restore`.
    """

    def __init__(
        self,
        reached: Reached,
        weights: Collection[int] = (),
        watched: Sequence[Tensor] = (),
        *,
        keeps_tensors: bool = True,
    ) -> None:
        self.reached, self.ids = reached, reached.seen.keys()
        self._restores = restore_dict if keeps_tensors else _restore_but_tensors
        self._classes = [type(module) for module in reached.modules]
        # Not by their own methods, which may be others than a dict's.
        self._entries = [dict.copy(table) for table in reached.tables]
        self._kept = [holder.take() for holder in reached.holders]
        self._tensors = [KeptTensors(reached.tensors, weights)]
        self._watched = WatchedTensors(watched)
        self._kept_ids = {id(tensor) for tensor in reached.tensors}
        self.lost: list[Tensor] = []
        self._running = list(reached.iterators)
        self._run_copies_instead()

    def _run_copies_instead(self) -> None:
        """Put copies in the place of iterators, which come back with all else that is put back."""
        if not self._running:
            return
        copies = {id(each): copied_iterator(each) or each for each in self._running}

        def instead(value: Any) -> Any:
            return copies.get(id(value), value)

        for table in self.reached.tables:
            entries = dict.copy(table)
            others = replaced_in(entries, instead)
            if others is not entries:
                dict.update(table, others)
        for holder in self.reached.holders:
            kept = holder.take()
            values = replaced_in(kept, instead)
            if values is not kept:
                holder.put(values)
        self._running = list(copies.values())

    def keep_now(self, tensors: Sequence[Tensor]) -> None:
        """Keep tensors that were only watched until now.

        Args:
            tensors: nothing has been written to them yet.
        """
        new = [tensor for tensor in tensors if id(tensor) not in self._kept_ids]
        if new:
            ids = {id(tensor) for tensor in new}
            self._kept_ids |= ids
            self.lost += self._watched.changed(ids)
            self._tensors.append(KeptTensors(new, ids))

    def watches(self, tensor: Tensor) -> bool:
        """Whether a tensor is one of those that are only watched, or were at first."""
        return tensor in self._watched

    def mark(self) -> Mark:
        """Return how things stand now, for :meth:`restore_mark`."""
        mark = Mark(
            [type(module) for module in self.reached.modules],
            {
                place: dict.copy(table)
                for place, (table, entries) in enumerate(self._pairs())
                if not _same(table, entries)
            },
            [(each, _taken(each)) for each in self._filled()],
            {
                place: holder.take()
                for place, (holder, kept) in enumerate(
                    zip(self.reached.holders, self._kept, strict=True)
                )
                if not holder.same(kept)
            },
            [kept.mark(some) for kept, some in zip(self._tensors, self._changed(), strict=True)],
            self._running,
        )
        self._run_copies_instead()
        return mark

    def restore_mark(self, mark: Mark) -> None:
        """Put back what has changed since a mark.

        Args:
            mark: from :meth:`mark`.
        """
        failed: list[str] = []
        self._running = mark.iterators
        self._restore_classes(mark.classes)
        for place, (table, entries) in enumerate(self._pairs()):
            wanted = mark.tables.get(place, entries)
            if not _same(table, wanted):
                self._restores(table, wanted)
        for container in self._filled():
            _refill(container, next((k for c, k in mark.empty if c is container), ()))
        for place, holder in enumerate(self.reached.holders):
            kept = mark.holders.get(place, self._kept[place])
            if not holder.same(kept):
                _try(holder.put, kept, failed)
        # Those that were handed out later were until then as in the beginning.
        changed = self._changed()
        for kept, before, some in zip_longest(self._tensors, mark.tensors, changed):
            kept.restore_mark(before, some)
        _tell(failed)

    def restore(self) -> list[Any]:
        """Put everything back as it was, and return the objects that were not.

        Warns of what cannot be put back.
        """
        moved: list[Any] = []
        failed: list[str] = []
        self._restore_classes(self._classes)
        for table, entries in self._pairs():
            if not _same(table, entries):
                self._restores(table, entries)
                moved.append(table)
        for container in self._filled():
            container.clear()
            moved.append(container)
        for holder, kept in zip(self.reached.holders, self._kept, strict=True):
            if not holder.same(kept):
                _try(holder.put, kept, failed)
                moved.append(holder.owner)
        for kept in self._tensors:
            moved += kept.restore_memory()
            self.lost += kept.lost
        for kept, changed in zip(self._tensors, self._changed(), strict=True):
            moved += kept.restore(changed)
        self.lost += [t for t in self._watched.changed() if id(t) not in self._kept_ids]
        _tell(failed)
        return moved

    def _changed(self) -> list[list[int]]:
        for kept in self._tensors:
            kept.hold_memory()
        return which_changed([kept.values for kept in self._tensors])

    def _restore_classes(self, classes: Sequence[type]) -> None:
        """Give modules their classes back, which parametrizations, for instance, replace."""
        for module, kind in zip(self.reached.modules, classes, strict=True):
            if type(module) is not kind:
                object.__setattr__(module, "__class__", kind)

    def _pairs(self) -> Iterable[tuple[dict[Any, Any], dict[Any, Any]]]:
        return zip(self.reached.tables, self._entries, strict=True)

    def _filled(self) -> list[Any]:
        """Return the containers that were empty and are not."""
        return [each for each in self.reached.empty if each]


@contextmanager
def preserved_objects(*roots: object) -> Iterator[None]:
    """Put back what is reached from some objects, such as a dataset, when this ends.

    Tensors are watched, not copied: a dataset may hold all its images.

    Args:
        roots: anything; what a library keeps for itself is left alone, as in a model.
    """
    found = Reached(roots)
    found.tensors = []
    snapshot = Snapshot(found)
    try:
        yield
    finally:
        snapshot.restore()


def warn_of_lost(model: nn.Module, lost: Sequence[Tensor]) -> None:
    """Warn of tensors that could not be put back, by their names; of none, be silent.

    Args:
        model: from which they can be reached.
        lost: the tensors.
    """
    if lost:
        named = Reached([model], named=True)
        _tell([f"what was written to '{named.path(tensor) or 'a tensor'}'" for tensor in lost])


def replaced_in(kept: Any, instead: Callable[[Any], Any]) -> Any:
    """Return what a holder keeps with other values, the very same if none is another.

    Args:
        kept: a value, or a list, tuple or dict of values.
        instead: from a value to the one in its place.
    """
    if type(kept) is dict:
        names, values = list(kept), list(kept.values())
        others = replaced_in(values, instead)
        return kept if others is values else dict(zip(names, others, strict=True))
    if type(kept) not in (list, tuple):
        return instead(kept)
    others = [instead(value) for value in kept]
    return kept if all(map(is_, kept, others)) else type(kept)(others)


def _same(table: dict[Any, Any], entries: dict[Any, Any]) -> bool:
    # Called for thousands of tables: without a function of its own for each half.
    return (
        len(table) == len(entries)
        and all(map(is_, dict.values(table), entries.values()))
        and all(map(is_, dict.keys(table), entries))
    )


def _restore_but_tensors(table: dict[Any, Any], entries: dict[Any, Any]) -> None:
    others = {name: value for name, value in entries.items() if not isinstance(value, Tensor)}
    tensors = {name: value for name, value in dict.items(table) if isinstance(value, Tensor)}
    restore_dict(table, others | tensors)


def _taken(container: Any) -> list[Any]:
    return list(container.items()) if isinstance(container, dict) else list(container)


def _refill(container: Any, entries: Sequence[Any]) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(entries)
    else:
        container.update(entries)


def _try(put: Callable[[Any], None], kept: Any, failed: list[str]) -> None:
    try:
        put(kept)
    except Exception as error:
        failed.append(f"{type(error).__name__}: {error}")


def _tell(failed: Sequence[str]) -> None:
    if failed:
        warnings.warn(
            f"Expected to put the model back as it was, but could not put back: "
            f"{'; '.join(failed)}. Training goes on with what an explanation has left there.",
            SaliencyWarning,
            stacklevel=2,
        )
