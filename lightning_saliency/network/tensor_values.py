"""What is in some tensors, to the last bit, and a way to have it back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

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
