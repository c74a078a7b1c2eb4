"""See who lays hands on the weights of torch's own layers, before anything is written to them.

A copy of all weights would take as much memory as the model, and longer than a quick explanation.
Layers such as ``nn.Conv2d`` only read their weights. Anybody else who wants to write to them must
ask for them first: by ``layer.weight``, by ``model.parameters()``, or in another such way, and all
of these go by the layer's table of parameters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

_MODULE_FILE = str(nn.Module.__init__.__code__.co_filename)
_LAYERS = str(Path(_MODULE_FILE).parent)
_OURS = str(Path(__file__).parents[2])
# What torch's layers run; others of their methods write to the weights, or hand them out.
_READING = {"forward", "_conv_forward", "_apply_instance_norm"}
_WRITING = str(Path(__file__).parents[1] / "random_weights.py")


def only_reads_its_weights(module: nn.Module) -> bool:
    """Whether a layer is one of torch's own whose ``forward`` does not write to its parameters.

    Args:
        module: of any kind.
    """
    kind = type(module)
    if not kind.__module__.startswith("torch.nn.modules.") or "forward" in module.__dict__:
        return False
    if kind.__module__ == "torch.nn.modules.container":
        return False
    # Embeddings scale rows of theirs that are too long.
    return module.__dict__.get("max_norm") is None


class WatchedParameters(dict[str, Any]):
    """A layer's table of parameters that notices who asks for one of them.

    Args:
        entries: the table that it stands for.
        tell: is called with this table before somebody other than the layer itself, or this
            package, is given a parameter; once.
    """

    def __init__(
        self, entries: dict[str, Any], tell: Callable[[WatchedParameters], object]
    ) -> None:
        super().__init__(entries)
        self._tell: Callable[[WatchedParameters], object] | None = tell

    def _notice(self, frame: Any) -> None:
        if self._tell is None:
            return
        # Generators and lambdas of nn.Module hand on what they get to whoever called them.
        while frame is not None and frame.f_code.co_filename == _MODULE_FILE:
            frame = frame.f_back
        if frame is None or not _only_reads(frame.f_code.co_filename, frame.f_code.co_name):
            tell, self._tell = self._tell, None
            tell(self)

    def __getitem__(self, name: str) -> Any:
        self._notice(sys._getframe(1))
        return dict.__getitem__(self, name)

    def __iter__(self) -> Iterator[str]:
        # With an own __iter__, dict(table) comes by __getitem__, too.
        return dict.__iter__(self)

    @override
    def get(self, name: str, default: Any = None) -> Any:
        self._notice(sys._getframe(1))
        return dict.get(self, name, default)

    @override
    def pop(self, *args: Any) -> Any:
        self._notice(sys._getframe(1))
        return dict.pop(self, *args)

    @override
    def popitem(self) -> tuple[str, Any]:
        self._notice(sys._getframe(1))
        return dict.popitem(self)

    @override
    def setdefault(self, *args: Any) -> Any:
        self._notice(sys._getframe(1))
        return dict.setdefault(self, *args)

    @override
    def values(self) -> Any:
        self._notice(sys._getframe(1))
        return dict.values(self)

    @override
    def items(self) -> Any:
        self._notice(sys._getframe(1))
        return dict.items(self)

    @override
    def copy(self) -> dict[str, Any]:
        self._notice(sys._getframe(1))
        return dict.copy(self)

    def __or__(self, other: Any) -> Any:
        self._notice(sys._getframe(1))
        return dict.copy(self) | other

    def __deepcopy__(self, memo: Any) -> dict[str, Any]:
        # Who copies gets other weights, to do with as he likes.
        return deepcopy(dict.copy(self), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (dict.copy(self),)


@lru_cache(maxsize=4096)
def _only_reads(file: str, function: str) -> bool:
    """Whether code only reads the parameters that it asks for, and hands them to nobody."""
    if file.startswith(_LAYERS):
        return function in _READING
    return file.startswith(_OURS) and file != _WRITING


@contextmanager
def watched_parameters(
    modules: Iterable[nn.Module], tell: Callable[[Sequence[Tensor]], object]
) -> Iterator[list[WatchedParameters]]:
    """Notice who asks the modules for a parameter.

    Afterwards the modules have the tables that they had, as they were.

    Args:
        modules: each once; all of them only read their weights.
        tell: is called with a layer's parameters before somebody else is given one of them.

    Yields:
        The tables that stand in for the modules' own.
    """

    def parameters_of(table: WatchedParameters) -> None:
        tell([value for value in dict.values(table) if value is not None])

    replaced = [(module.__dict__, module._parameters) for module in modules]
    tables = [WatchedParameters(own, parameters_of) for _, own in replaced]
    try:
        for (attributes, _), table in zip(replaced, tables, strict=True):
            attributes["_parameters"] = table
        yield tables
    finally:
        for attributes, own in replaced:
            attributes["_parameters"] = own
