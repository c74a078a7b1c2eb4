"""Tensors that a model holds: their memory, values to the last bit, hooks; and a way back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightning_saliency.network.isolation.holders import restore_dict, same_entries

# Compared as integers, numbers that are none equal themselves, and 0 is not -0.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
# Up to this many elements are copied and compared together with others of their kind.
_SMALL = 4096


_Pairs = dict[int, tuple[Tensor, Tensor]]


class TensorValues:
    """The values of tensors, copied when this is made.

    Small ones of one kind are copied and compared as one piece: a network has dozens of buffers of
    a few numbers. On an accelerator all comparisons together wait for the device once.

    Args:
        tensors: aliases of what may be written to, by any keys; strided or not, of any dtype.
    """

    @torch.no_grad()
    def __init__(self, tensors: Mapping[int, Tensor]) -> None:
        small: dict[tuple[torch.dtype, torch.device], dict[int, Tensor]] = defaultdict(dict)
        self._large: dict[int, tuple[Tensor, Tensor]] = {}
        self._odd: dict[int, tuple[Tensor, Tensor]] = {}
        for key, tensor in tensors.items():
            if not _is_plain(tensor):
                self._odd[key] = tensor, tensor.clone()
            elif tensor.numel() <= _SMALL:
                small[tensor.dtype, tensor.device][key] = tensor
            else:
                flat = _flat(tensor)
                self._large[key] = flat, _copy(flat)
        self._small = [(group, _in_one_piece(group)) for group in small.values()]

    @torch.no_grad()
    def restore(self, changed: Iterable[int]) -> None:
        """Write back what was there.

        Args:
            changed: keys of tensors, from :func:`which_changed`.
        """
        pairs = {**self._large, **self._odd}
        for group, before in self._small if changed else ():
            pairs |= _pairs(group, before)
        for key in changed:
            tensor, value = pairs[key]
            tensor.copy_(value)


@torch.no_grad()
def which_changed(values: Sequence[TensorValues]) -> list[list[int]]:
    """Return, for each of some values, the keys of the tensors that are not as they were.

    Args:
        values: looked at together, so that accelerators are waited for once.
    """
    # First pieces of many small tensors; a second look only at pieces that have changed.
    whole: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    for place, some in enumerate(values):
        whole |= {(place, key): pair for key, pair in some._large.items()}
        for number, (group, before) in enumerate(some._small):
            whole[place, -1 - number] = _in_one_piece(group), before
    differ = _which_differ(whole)
    single: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    for place, key in differ:
        if key < 0:
            small = _pairs(*values[place]._small[-1 - key])
            single |= {(place, each): pair for each, pair in small.items()}
    changed: list[list[int]] = [_odd_ones(some._odd) for some in values]
    for place, key in (*(each for each in differ if each[1] >= 0), *_which_differ(single)):
        changed[place].append(key)
    return changed


def _odd_ones(pairs: _Pairs) -> list[int]:
    # Sparse tensors cannot be compared.
    return [
        key
        for key, (tensor, value) in pairs.items()
        if tensor.layout is not torch.strided or not torch.equal(tensor, value)
    ]


def _pairs(group: Mapping[int, Tensor], before: Tensor) -> _Pairs:
    """Return small tensors, each of one dimension where its memory allows, with their values."""
    values = torch.split(before, [tensor.numel() for tensor in group.values()])
    return {
        key: (flat, value.view(flat.shape))
        for (key, flat), value in zip(group.items(), values, strict=True)
    }


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not (
        tensor.is_quantized or tensor.is_conj() or tensor.is_neg()
    )


def _flat(tensor: Tensor) -> Tensor:
    """Return an alias of one dimension if the memory allows it, else the tensor."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).reshape(-1)
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if stride == 0 and size > 1:
            # An expanded tensor; what is written to one place is in all of them.
            return _flat(tensor.narrow(dim, 0, 1))
    return tensor


def _copy(flat: Tensor) -> Tensor:
    try:
        return flat.clone()
    except torch.OutOfMemoryError:
        # It takes longer from there, but the device has none to spare.
        return flat.cpu()


def _in_one_piece(tensors: Mapping[int, Tensor]) -> Tensor:
    return torch.cat([t if t.dim() == 1 else t.reshape(-1) for t in tensors.values()])


_Key = TypeVar("_Key", bound=Hashable)


def _which_differ(pairs: Mapping[_Key, tuple[Tensor, Tensor]]) -> list[_Key]:
    """Return the keys of the pairs whose bits differ; waits once for each accelerator."""
    differ: list[_Key] = []
    waiting: dict[torch.device, dict[_Key, tuple[Tensor, Tensor]]] = defaultdict(dict)
    for key, (one, other) in pairs.items():
        one, other = _as_integers(one, other.to(one.device))
        if one.device.type != "cpu":
            waiting[one.device][key] = one, other
        elif not torch.equal(one, other):
            differ.append(key)
    for some in waiting.values():
        flags = torch.stack([(one != other).any() for one, other in some.values()]).tolist()
        differ += [key for key, flag in zip(some, flags, strict=True) if flag]
    return differ


def _as_integers(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    kind = _INTEGERS[one.dtype.itemsize]
    if one.dim() != 1:
        return one.contiguous().view(kind), other.contiguous().view(kind)
    per_word = 8 // one.dtype.itemsize if one.dtype.itemsize <= 8 else 1
    aligned = all(each.storage_offset() % per_word == 0 for each in (one, other))
    if one.numel() % per_word == 0 and aligned and one.is_contiguous():
        # Comparing words of 8 bytes takes half as long as comparing those of 4.
        kind = torch.int64
    return one.view(kind), other.view(kind)


# Of tensors that are no weights, such as a dataset that a model holds: the bytes of one, and of all
# together, that are copied.
_MOST_BYTES_OF_ONE, _MOST_BYTES = 64 * 2**20, 256 * 2**20


_Standing = tuple[list[int], list[int]]


@dataclass
class TensorMark:
    """How the kept tensors stood at one time.

    Attributes:
        standing: what autograd has counted and where the memory was.
        others: by place, alias and values of those that were not as in the beginning.
    """

    standing: _Standing
    others: dict[int, tuple[Tensor, Tensor]]


class WatchedTensors:
    """Tensors of which it is only noticed whether autograd or the allocator knows of a change.

    Args:
        tensors: each once.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._before = _standing(tensors)
        self._places = {id(tensor): place for place, tensor in enumerate(tensors)}

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self._places

    def changed(self, ids: Iterable[int] | None = None) -> list[Tensor]:
        """Return those that have been written to since, as far as that can be seen.

        Args:
            ids: of those that are looked at; None for all.
        """
        if ids is None:
            moved = _moved(_standing(self._tensors), self._before)
            return [self._tensors[place] for place in moved]
        places = [self._places[key] for key in ids if key in self._places]
        some = [self._tensors[place] for place in places]
        before = [[part[place] for place in places] for part in self._before]
        return [some[place] for place in _moved(_standing(some), (before[0], before[1]))]


class KeptTensors:
    """Tensors, as they were when this was made.

    Args:
        tensors: each once.
        weights: ids of those that are copied however large they are.

    Attributes:
        values: what was in them.
        lost: those whose values were written to and cannot be put back, after
            :meth:`restore_memory`.
    """

    def __init__(self, tensors: Iterable[Tensor], weights: Collection[int] = ()) -> None:
        self._tensors = [tensor for tensor in tensors if _has_memory(tensor)]
        self.lost: list[Tensor] = []
        self._aliases = [tensor.data for tensor in self._tensors]
        self._before = _standing(self._tensors)
        self._attributes = [dict(vars(tensor)) for tensor in self._tensors]
        self._hooks = [_hooks(tensor) for tensor in self._tensors]
        # Of those that were computed the graph is their own.
        self._leaves = [
            (tensor, tensor.requires_grad) for tensor in self._tensors if tensor.grad_fn is None
        ]
        chosen = self._chosen(weights)
        try:
            self.values = TensorValues(chosen)
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            chosen, self.values = {}, TensorValues({})
        self._uncopied = [place for place in range(len(self._tensors)) if place not in chosen]

    def _chosen(self, weights: Collection[int]) -> dict[int, Tensor]:
        """Return by place those that are copied."""
        chosen, left = {}, _MOST_BYTES
        for place, (tensor, alias) in enumerate(zip(self._tensors, self._aliases, strict=True)):
            size = 0 if id(tensor) in weights else alias.numel() * alias.element_size()
            if size <= min(left, _MOST_BYTES_OF_ONE):
                chosen[place] = alias
                left -= size
        return chosen

    def hold_memory(self) -> None:
        """Have memory again where it was freed, as models do that share their weights out."""
        for place, alias in enumerate(self._aliases):
            if _pointer(alias) != self._before[1][place]:
                _ask_for_memory(alias)

    def mark(self, changed: Iterable[int]) -> TensorMark:
        """Return how the tensors stand now, for :meth:`restore_mark`.

        Args:
            changed: from :func:`~lightning_saliency.network.isolation.tensors.which_changed`.
        """
        now = _standing(self._tensors)
        others = {
            place: (self._tensors[place].data, self._tensors[place].data.clone())
            for place in {*_moved(now, self._before), *changed}
        }
        return TensorMark(now, others)

    @torch.no_grad()
    def restore_mark(self, mark: TensorMark | None, changed: Iterable[int]) -> None:
        """Put back what has been written to since the mark.

        Args:
            mark: from :meth:`mark`; None for how they were in the beginning.
            changed: as for :meth:`mark`.
        """
        self._restore_hooks()
        before, others = (self._before, {}) if mark is None else (mark.standing, mark.others)
        for place in _moved(_standing(self._tensors), before):
            alias = others[place][0] if place in others else self._aliases[place]
            if _is_elsewhere(self._tensors[place], alias):
                self._tensors[place].data = alias
        for alias, values in others.values():
            alias.copy_(values)
        back = [place for place in changed if place not in others]
        self.values.restore(back)
        for place in back:
            self._before[0][place] = _version(self._tensors[place])
        self._restore_graph()

    @torch.no_grad()
    def restore_memory(self) -> list[Tensor]:
        """Give the tensors the memory that they had, and return those that had other memory."""
        self._restore_hooks()
        versions, pointers = self._before
        self.lost = [
            self._tensors[place]
            for place in self._uncopied
            if _version(self._tensors[place]) != versions[place]
            or _pointer(self._aliases[place]) != pointers[place]
        ]
        moved = []
        for tensor, alias in zip(self._tensors, self._aliases, strict=True):
            if _is_elsewhere(tensor, alias):
                tensor.data = alias
                moved.append(tensor)
        return moved + self.lost

    def restore(self, changed: Iterable[int]) -> list[Tensor]:
        """Put back the values, after :meth:`restore_memory`, and return what had others.

        Args:
            changed: as for :meth:`mark`.
        """
        self.values.restore(changed)
        self._restore_graph()
        return [self._tensors[place] for place in changed]

    def _restore_hooks(self) -> None:
        for tensor, attributes in zip(self._tensors, self._attributes, strict=True):
            if vars(tensor).keys() != attributes.keys() or not same_entries(
                vars(tensor).values(), attributes.values()
            ):
                restore_dict(vars(tensor), attributes)
        for tensor, (hooks, own, after, own_after) in zip(self._tensors, self._hooks, strict=True):
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


def _standing(tensors: Sequence[Tensor]) -> _Standing:
    """Return what autograd has counted for each tensor, and where its memory is."""
    try:
        # Nearly always; asking each costs twice as much.
        return [t._version for t in tensors], [t.data_ptr() for t in tensors]
    except RuntimeError:
        return [_version(t) for t in tensors], [_pointer(t) for t in tensors]


def _moved(now: _Standing, before: _Standing) -> list[int]:
    """Return the places of those that have been written to, or have other memory."""
    if now == before:
        return []
    return [
        place
        for place, (version, pointer) in enumerate(zip(*now, strict=True))
        if version != before[0][place] or pointer != before[1][place]
    ]


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
