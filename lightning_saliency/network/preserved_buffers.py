"""Put back what a model's own forward pass writes into its buffers."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["preserved_buffers", "put_back"]

# Compared as integers, numbers that are none equal themselves, and 0 is not -0.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}


@contextmanager
def preserved_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Restore the modules' buffers on leaving: which there are, and their values to the last bit.

    Only those that were written to are written to again.

    Args:
        modules: each once.
    """
    tables = [module._buffers for module in modules]
    # Most of them are empty.
    before = {index: dict(table.items()) for index, table in enumerate(tables) if table}
    # By their ids: the hash of a tensor is many times as slow.
    buffers = {
        id(buffer): buffer
        for entries in before.values()
        for buffer in entries.values()
        if buffer is not None
    }
    values = _Values(buffers.values())
    # The same memory, but other objects: a model that writes what it computes from the image into
    # a buffer would make the buffer a part of the graph for good.
    stand_ins = {key: buffer.detach() for key, buffer in buffers.items()}
    try:
        for index, entries in before.items():
            put_back(tables[index], {name: stand_ins.get(id(b)) for name, b in entries.items()})
        yield
    finally:
        for index, table in enumerate(tables):
            if table or index in before:
                put_back(table, before.get(index, {}))
        values.restore()


def put_back(table: Any, entries: dict[Any, Any]) -> None:
    """Give a table of a module these entries, in their order.

    Args:
        table: such as ``module._buffers``; that of a scripted module is left as it is, because it
            cannot lose or gain entries.
        entries: by name.
    """
    if not isinstance(table, dict) or not (table or entries):
        return
    if list(table) != list(entries):
        table.clear()
    table.update(entries)


class _Values:
    """What is in some tensors.

    Those of one kind are copied and compared as one piece: a network has dozens of buffers of a
    few numbers, and on an accelerator each comparison waits for the device.
    """

    @torch.no_grad()
    def __init__(self, tensors: Iterable[Tensor]) -> None:
        groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
        self._alone: list[tuple[Tensor, Tensor]] = []
        for tensor in tensors:
            if (
                type(tensor) is Tensor
                and tensor.layout is torch.strided
                and not tensor.is_quantized
            ):
                groups[tensor.dtype, tensor.device].append(tensor)
            else:
                self._alone.append((tensor, tensor.detach().clone()))
        self._together = [(group, _in_one_piece(group)) for group in groups.values()]

    @torch.no_grad()
    def restore(self) -> None:
        """Write back what has changed."""
        for group, before in self._together:
            if not _same_bits(_in_one_piece(group), before):
                values = torch.split(before, [tensor.numel() for tensor in group])
                for tensor, value in zip(group, values, strict=True):
                    if not _same_bits(tensor.reshape(-1), value):
                        tensor.copy_(value.view(tensor.shape))
        for tensor, value in self._alone:
            # Sparse tensors cannot be compared.
            if tensor.layout is not torch.strided or not torch.equal(tensor, value):
                tensor.copy_(value)


def _in_one_piece(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t if t.dim() == 1 else t.reshape(-1) for t in tensors])


def _same_bits(one: Tensor, other: Tensor) -> bool:
    kind = _INTEGERS[one.dtype.itemsize]
    return torch.equal(one.view(kind), other.view(kind))
