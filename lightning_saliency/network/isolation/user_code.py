"""Tell the user's own code from that of installed packages, and find the globals that it names."""

from __future__ import annotations

import dis
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

# What Lightning calls in training, never while a model explains: the data that such code names
# need not be looked after.
_NOT_EXPLAINING = ("on_", "configure_", "train_", "val_", "test_", "predict_", "optimizer_")
_NOT_EXPLAINING_EITHER = {
    *("training_step", "validation_step", "test_step", "predict_step", "backward"),
    *("setup", "teardown", "prepare_data", "__init__", "__init_subclass__", "__new__"),
}


def may_run(name: str) -> bool:
    """Whether a method of this name may run while a model explains.

    Args:
        name: of a method of a module or of an object that it holds.
    """
    return name not in _NOT_EXPLAINING_EITHER and not name.startswith(_NOT_EXPLAINING)


def is_library(module: str | None) -> bool:
    """Whether a module of Python is part of Python, of an installed package, or of this one.

    Args:
        module: its name, as in ``type(thing).__module__``.
    """
    if not module:
        return True
    first = module.partition(".")[0]
    if first == "__main__":
        return False
    if first in sys.stdlib_module_names or first == __name__.partition(".")[0]:
        return True
    loaded = sys.modules.get(module) or sys.modules.get(first)
    file = getattr(loaded, "__file__", None)
    return file is not None and _is_installed(file)


@lru_cache(maxsize=4096)
def _is_installed(file: str) -> bool:
    path = Path(file)
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return any(path.is_relative_to(folder) for folder in _library_folders())


@lru_cache(maxsize=1)
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def globals_named_by(function: FunctionType) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """Yield the tables of globals that a function may write to, and the names it has for them.

    These are its own module's, and those of the user's other modules that it names, by however
    many dots. A name of its own module need not be there yet if the function gives it a value.

    Args:
        function: of the user's own.
    """
    (names, given), own = _names(function.__code__), function.__globals__
    yield own, tuple(name for name in names if name in own or name in given)
    waiting, seen = [own], {id(own)}
    while waiting:
        table = waiting.pop()
        for name in names:
            other = table.get(name)
            if not isinstance(other, ModuleType) or id(vars(other)) in seen:
                continue
            if not is_library(other.__name__):
                seen.add(id(vars(other)))
                waiting.append(vars(other))
                yield vars(other), tuple(name for name in names if name in vars(other))


@lru_cache(maxsize=4096)
def _names(code: CodeType) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the names that code has for globals and attributes, and globals that it assigns."""
    names, given = dict.fromkeys(code.co_names), set(_assigned(code))
    if "globals" in names:
        # As in globals()["count"].
        texts = [each for each in code.co_consts if isinstance(each, str) and each.isidentifier()]
        names.update(dict.fromkeys(texts))
        given.update(texts)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner, assigned = _names(constant)
            names.update(dict.fromkeys(inner))
            given |= assigned
    return tuple(names), frozenset(given)


def _assigned(code: CodeType) -> Iterator[str]:
    operation = dis.opmap["STORE_GLOBAL"]
    # To look at each instruction takes long, and most code has none of these.
    if operation in code.co_code[::2]:
        for each in dis.get_instructions(code):
            if each.opcode == operation:
                yield each.argval
