"""Tensors that a model holds, and a way to have them back: memory, values, hooks, no graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.network.holders import same_entries
from lightning_saliency.network.tensor_values import TensorValues

__all__ = ["KeptTensors", "TensorMark"]

# Of tensors that are no weights, such as a dataset that a model holds: the bytes of one, and of all
# together, that are copied.
_MOST_BYTES_OF_ONE, _MOST_BYTES = 64 * 2**20, 256 * 2**20


@dataclass
class TensorMark:
    """How the kept tensors stood at one time.

    Attributes:
        versions: of each, as autograd counts what is written in place.
        pointers: to the memory of each.
        others: by place, alias and values of those that were not as in the beginning.
    """

    versions: list[int]
    pointers: list[int]
    others: dict[int, tuple[Tensor, Tensor]]


class KeptTensors:
    """Tensors, as they were when this was made.

    Args:
        tensors: each once.
        weights: ids of those that are copied however large they are.
        watched: ids of those that are not copied before :meth:`copy_now`. Values that are written
            to them in place cannot be had back; autograd's counters tell that they were written.

    Attributes:
        tensors: those that have memory.
        lost: those whose values were written to and cannot be put back, after :meth:`restore`.
    """

    def __init__(
        self,
        tensors: Iterable[Tensor],
        weights: Collection[int] = (),
        watched: Collection[int] = (),
    ) -> None:
        self.tensors = [tensor for tensor in tensors if _has_memory(tensor)]
        self.lost: list[Tensor] = []
        self._aliases = [tensor.data for tensor in self.tensors]
        self._pointers = [_pointer(tensor) for tensor in self.tensors]
        self._versions = [_version(tensor) for tensor in self.tensors]
        self._hooks = [_hooks(tensor) for tensor in self.tensors]
        # Of those that were computed the graph is their own.
        self._leaves = [
            (tensor, tensor.requires_grad) for tensor in self.tensors if tensor.grad_fn is None
        ]
        chosen = self._chosen(weights, watched)
        try:
            self._values = TensorValues(chosen)
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            chosen, self._values = {}, TensorValues({})
        self._later: list[TensorValues] = []
        self._watched = {place for place in range(len(self.tensors)) if place not in chosen}
        self._places = {id(self.tensors[place]): place for place in self._watched}

    def _chosen(self, weights: Collection[int], watched: Collection[int]) -> dict[int, Tensor]:
        """Return by place those that are copied."""
        chosen, left = {}, _MOST_BYTES
        for place, (tensor, alias) in enumerate(zip(self.tensors, self._aliases, strict=True)):
            if id(tensor) in watched:
                continue
            size = 0 if id(tensor) in weights else alias.numel() * alias.element_size()
            if size <= min(left, _MOST_BYTES_OF_ONE):
                chosen[place] = alias
                left -= size
        return chosen

    def copy_now(self, tensors: Iterable[Tensor]) -> None:
        """Copy the values of tensors that were watched until now.

        Args:
            tensors: those that were written to already, as autograd's counters tell, stay as they
                are.
        """
        chosen = {
            place: self._aliases[place]
            for place in (self._places.get(id(tensor)) for tensor in tensors)
            if place in self._watched
            and _version(self.tensors[place]) == self._versions[place]
            and _pointer(self.tensors[place]) == self._pointers[place]
        }
        self._later.append(TensorValues(chosen))
        self._watched.difference_update(chosen)

    def mark(self) -> TensorMark:
        """Return how the tensors stand now, for :meth:`restore_mark`."""
        versions = [_version(tensor) for tensor in self.tensors]
        pointers = [_pointer(tensor) for tensor in self.tensors]
        others = {
            place: (self.tensors[place].data, self.tensors[place].data.clone())
            for place in self._moved(versions, pointers, self._versions, self._pointers)
        }
        return TensorMark(versions, pointers, others)

    @torch.no_grad()
    def restore_mark(self, mark: TensorMark) -> None:
        """Put back what has visibly been written to since the mark.

        Args:
            mark: from :meth:`mark`.
        """
        self._restore_hooks()
        versions = [_version(tensor) for tensor in self.tensors]
        pointers = [_pointer(tensor) for tensor in self.tensors]
        moved = self._moved(versions, pointers, mark.versions, mark.pointers)
        for place in moved:
            alias, values = mark.others.get(place, (self._aliases[place], None))
            if _is_elsewhere(self.tensors[place], alias):
                self.tensors[place].data = alias
            if values is not None:
                alias.copy_(values)
        if moved:
            as_before = {place for place in moved if place not in mark.others}
            self._restore_values(as_before)
            for place in as_before.difference(self._watched):
                self._versions[place] = _version(self.tensors[place])
        self._restore_graph()

    @staticmethod
    def _moved(
        versions: list[int], pointers: list[int], before: list[int], memory: list[int]
    ) -> list[int]:
        if versions == before and pointers == memory:
            return []
        return [
            place
            for place in range(len(versions))
            if versions[place] != before[place] or pointers[place] != memory[place]
        ]

    @torch.no_grad()
    def restore(self) -> list[Tensor]:
        """Put everything back as it was, and return the tensors that were not."""
        self._restore_hooks()
        self.lost = [
            self.tensors[place]
            for place in sorted(self._watched)
            if _version(self.tensors[place]) != self._versions[place]
        ]
        moved = []
        for place, (tensor, alias) in enumerate(zip(self.tensors, self._aliases, strict=True)):
            if _pointer(alias) != self._pointers[place]:
                # Its memory was freed, as sharded weights are.
                _ask_for_memory(alias)
                if place in self._watched:
                    self.lost.append(tensor)
            if _is_elsewhere(tensor, alias):
                tensor.data = alias
                moved.append(tensor)
        moved += [self.tensors[place] for place in self._restore_values()]
        self._restore_graph()
        return moved + self.lost

    def _restore_values(self, places: Collection[int] | None = None) -> list[int]:
        return [key for values in (self._values, *self._later) for key in values.restore(places)]

    def _restore_hooks(self) -> None:
        for tensor, (hooks, own, after, own_after) in zip(self.tensors, self._hooks, strict=True):
            now: Any = tensor
            if now._backward_hooks is not hooks or (own and not _same(hooks, own)):
                _refill(hooks, own)
                now._backward_hooks = hooks
            if now._post_accumulate_grad_hooks is not after or (
                own_after and not _same(after, own_after)
            ):
                _refill(after, own_after)
                now._post_accumulate_grad_hooks = after

    def _restore_graph(self) -> None:
        """Take out of the graph what a model has written a part of the graph into."""
        for tensor, needs_gradient in self._leaves:
            if tensor.grad_fn is not None:
                if tensor._is_view():
                    self.lost.append(tensor)
                    continue
                tensor.detach_()
            if tensor.requires_grad is not needs_gradient:
                tensor.requires_grad_(needs_gradient)


def _has_memory(tensor: Tensor) -> bool:
    if tensor.device.type == "meta":
        return False
    is_freed = tensor.layout is torch.strided and tensor.numel() and _pointer(tensor) == 0
    return not is_freed or type(tensor) not in (Tensor, torch.nn.Parameter)


def _ask_for_memory(alias: Tensor) -> None:
    last = int(sum((n - 1) * step for n, step in zip(alias.shape, alias.stride(), strict=True)))
    needed = (int(alias.storage_offset()) + last + 1) * alias.element_size()
    storage = alias.untyped_storage()
    if storage.nbytes() < needed:
        storage.resize_(needed)


def _pointer(tensor: Tensor) -> int:
    try:
        return tensor.data_ptr()
    except RuntimeError:
        # Sparse tensors, and those of classes that keep their numbers elsewhere.
        return 0


def _version(tensor: Tensor) -> int:
    # Of tensors made in inference mode nobody counts.
    return -1 if tensor.is_inference() else tensor._version


def _is_elsewhere(tensor: Tensor, alias: Tensor) -> bool:
    return (
        _pointer(tensor) != _pointer(alias)
        or tensor.shape != alias.shape
        or tensor.dtype != alias.dtype
        or (tensor.layout is torch.strided and tensor.stride() != alias.stride())
    )


_Hooks = tuple[Any, Any, Any, Any]


def _hooks(tensor: Any) -> _Hooks:
    """Return the tensor's tables of hooks, each followed by a copy."""
    hooks, after = tensor._backward_hooks, tensor._post_accumulate_grad_hooks
    return hooks, hooks and dict(hooks), after, after and dict(after)


def _same(table: dict[Any, Any], entries: dict[Any, Any]) -> bool:
    return len(table) == len(entries) and same_entries(table.values(), entries.values())


def _refill(table: Any, entries: Any) -> None:
    if table is not None and entries is not None:
        table.clear()
        table.update(entries)
