"""An accelerator that is none: tensors that say they are elsewhere, and notice who waits for them.

Each holds its numbers on the CPU, reports the device ``pretend:0``, refuses to meet tensors of the
CPU in one operation, and notes the line of code that makes the host wait for the device: to read a
number, to find out how many there are, to compare, to copy to the CPU. Results are the CPU's to the
last bit. Once :func:`set_up` was called, the process has the device for good.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map

NAME = "pretend"
_HERE, _TORCH = str(Path(__file__)), str(Path(torch.__file__).parent)
_PACKAGE = str(Path(__file__).parents[1] / "lightning_saliency")

# What needs a number, a size or an answer on the host. Others that do are made of these.
_WAITING = {
    *("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique_dim"),
    *("_unique2", "unique_consecutive", "nonzero_numpy", "bincount"),
}
_COPIES = {"_to_copy", "copy_"}
# Torch gives these their size only when the numbers are there, which a wrapper would not notice.
_SIZED_LATER = ("arange", "arange.start", "arange.start_step", "linspace")
# Lists of places may come from the host.
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


def is_possible() -> bool:
    """Whether this torch has what it takes."""
    from torch.utils import backend_registration

    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


class PretendTensor(torch.Tensor):
    """Numbers on the CPU that say they are on the device."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> PretendTensor:
        made: PretendTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=f"{NAME}:0",
        )
        made.numbers = numbers
        return made

    def tolist(self) -> Any:
        """Return the numbers; torch itself does not do it for classes such as this."""
        return self.cpu().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Waits:
    """Where the host has waited for the device, and how often."""

    def __init__(self) -> None:
        self.lines: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return sum(self.lines.values())


_listening: list[Waits] = []


@contextmanager
def counted_waits() -> Iterator[Waits]:
    """Count what makes the host wait inside."""
    waits = Waits()
    _listening.append(waits)
    try:
        yield waits
    finally:
        _listening.remove(waits)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = func._schema.name.partition("::")[2]
    tensors = [each for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
    device = kwargs.get("device")
    to_host = device is not None and torch.device(device).type == "cpu"
    if name == "copy_":
        to_host = not isinstance(args[0], PretendTensor)
    _refuse_a_mixture(name, tensors)
    if name in _WAITING or (to_host and name in _COPIES) or _has_mask(name, args):
        _note(name)
    if device is not None:
        kwargs = {**kwargs, "device": "cpu"}
    plain_args, plain_kwargs = tree_map(_numbers, (args, kwargs))
    found = func(*plain_args, **plain_kwargs)
    if to_host:
        return args[0] if name == "copy_" else found
    return _wrapped(func, args, kwargs, found)


def _numbers(value: Any) -> Any:
    return value.numbers if isinstance(value, PretendTensor) else value


def _wrapped(func: Any, args: Any, kwargs: Any, found: Any) -> Any:
    """Return results on the device; what was written to in place is the object that it was."""
    written = [
        args[place] if place < len(args) else kwargs.get(argument.name)
        for place, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    for each in written:
        if isinstance(each, PretendTensor) and each.shape != each.numbers.shape:
            raise NotImplementedError(f"{func} changes the shape of {each.shape} in place.")
    if written and len(func._schema.returns) == 1:
        return written[0]
    if written and func._schema.returns:
        return tuple(written)
    return tree_map(lambda v: PretendTensor(v) if isinstance(v, Tensor) else v, found)


def _refuse_a_mixture(name: str, tensors: list[Tensor]) -> None:
    if name in _COPIES or name in _INDEXING:
        return
    away = [t for t in tensors if isinstance(t, PretendTensor)]
    # Single numbers of the CPU may come along, as on any accelerator.
    here = [t for t in tensors if not isinstance(t, PretendTensor) and t.dim() > 0]
    if away and here:
        raise RuntimeError(
            f"Expected all tensors of {name} to be on one device, but found {NAME}:0 and cpu."
        )


def _has_mask(name: str, args: Any) -> bool:
    if name not in _INDEXING:
        return False
    return any(isinstance(i, PretendTensor) and i.dtype == torch.bool for i in tree_iter(args[1]))


def _note(name: str) -> None:
    frame: Any = sys._getframe(1)
    found = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE):
            found = f"{Path(file).relative_to(_PACKAGE)}:{frame.f_lineno}"
            break
        if not found and not file.startswith((_TORCH, _HERE)):
            found = f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    for waits in _listening:
        waits.lines[f"{name} at {found or 'backward pass'}"] += 1


class _Module:
    """What torch asks of ``torch.pretend``."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_libraries: list[torch.library.Library] = []


def set_up() -> None:
    """Give this process the device."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    if _libraries:
        return
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    # What is made on the device without a tensor of it.
    library = torch.library.Library("aten", "IMPL", "PrivateUse1")
    for name in ("empty.memory_format", "empty_strided", *_SIZED_LATER):
        _implement(library, name)
    library.impl("_copy_from", _copy_from)
    library.impl("_copy_from_and_resize", _copy_from)
    _libraries.append(library)


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    if not isinstance(target, PretendTensor):
        _note("_copy_from")
    _numbers(target).copy_(_numbers(source))
    return target


def _implement(library: torch.library.Library, name: str) -> None:
    base, _, overload = name.partition(".")
    operator = getattr(getattr(torch.ops.aten, base), overload or "default")

    def implementation(*args: Any, **kwargs: Any) -> Any:
        return _run(operator, args, kwargs)

    library.impl(name, implementation)
