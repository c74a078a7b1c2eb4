"""What is in some tensors, to the last bit, and a way to have it back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

__all__ = ["TensorValues"]

# Compared as integers, numbers that are none equal themselves, and 0 is not -0.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
# Up to this many elements are copied and compared together with others of their kind.
_SMALL = 4096


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
    def restore(self, keys: Collection[int] | None = None) -> list[int]:
        """Write back what has changed, and return the keys of the tensors that had.

        Args:
            keys: of the only tensors that are looked at; None for all.
        """
        pairs = {-1 - place: (_in_one_piece(g), v) for place, (g, v) in enumerate(self._small)}
        differ = _which_differ({**pairs, **self._large}) if keys is None else set(pairs)
        changed: list[int] = []
        for place, (group, before) in enumerate(self._small):
            if -1 - place in differ:
                changed += _write_small(group, before, keys)
        large = differ if keys is None else _which_differ(_some(self._large, keys))
        for key in self._large.keys() & large:
            flat, before = self._large[key]
            flat.copy_(before)
            changed.append(key)
        for key, (tensor, value) in self._odd.items():
            # Sparse tensors cannot be compared.
            is_same = tensor.layout is torch.strided and torch.equal(tensor, value)
            if not is_same and (keys is None or key in keys):
                tensor.copy_(value)
                changed.append(key)
        return changed


_Pairs = dict[int, tuple[Tensor, Tensor]]


def _some(pairs: _Pairs, keys: Collection[int]) -> _Pairs:
    return {key: pair for key, pair in pairs.items() if key in keys}


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) is Tensor
        and tensor.layout is torch.strided
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
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


def _write_small(
    group: Mapping[int, Tensor], before: Tensor, keys: Collection[int] | None
) -> list[int]:
    values = torch.split(before, [tensor.numel() for tensor in group.values()])
    pairs = {
        key: (tensor.reshape(-1), value)
        for (key, tensor), value in zip(group.items(), values, strict=True)
        if keys is None or key in keys
    }
    changed = _which_differ(pairs)
    for key in changed:
        group[key].copy_(pairs[key][1].view(group[key].shape))
    return list(changed)


def _which_differ(pairs: _Pairs) -> set[int]:
    """Return the keys of the pairs whose bits differ; waits once for each accelerator."""
    differ: set[int] = set()
    waiting: dict[torch.device, _Pairs] = defaultdict(dict)
    for key, (one, other) in pairs.items():
        one, other = _as_integers(one, other.to(one.device))
        if one.device.type != "cpu":
            waiting[one.device][key] = one, other
        elif not torch.equal(one, other):
            differ.add(key)
    for some in waiting.values():
        flags = torch.stack([(one != other).any() for one, other in some.values()]).tolist()
        differ.update(key for key, flag in zip(some, flags, strict=True) if flag)
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
