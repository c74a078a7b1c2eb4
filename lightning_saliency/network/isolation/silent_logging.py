"""Keep what a model logs while it is explained from the user's metrics."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

_NAMES = ("log", "log_dict")
# By name: neither of the two packages need be installed.
_LIGHTNING = ("lightning.pytorch", "pytorch_lightning")


@contextmanager
def silent_logging(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let ``log`` and ``log_dict`` of the LightningModules among some modules do nothing.

    The loggers of their trainer are replaced by one that does nothing, for models that call
    ``self.logger.experiment``.

    Args:
        modules: of any kind.
    """
    silenced: list[tuple[dict[str, Any], dict[str, Any]]] = []
    replaced: list[tuple[Any, Any]] = []
    try:
        packages = {kind: _package(kind) for kind in set(map(type, modules))}
        for module in modules if any(packages.values()) else ():
            package = packages[type(module)]
            own = module.__dict__
            if package is None or own.get("log") is _nothing:
                continue
            silenced.append((own, {name: own[name] for name in _NAMES if name in own}))
            own["log"] = own["log_dict"] = _nothing
            runner: Any
            for runner in (own.get("_trainer"), own.get("_fabric")):
                loggers = getattr(runner, "_loggers", None)
                if loggers and all(runner is not other for other, _ in replaced):
                    replaced.append((runner, loggers))
                    runner._loggers = [_dummy(package)]
        yield
    finally:
        for runner, loggers in replaced:
            runner._loggers = loggers
        for own, before in silenced:
            for name in _NAMES:
                own.pop(name, None)
            own.update(before)


def _nothing(*_: object, **__: object) -> None:
    """Stand for a function that logs."""


def _package(kind: type) -> str | None:
    """Return which package a LightningModule's class comes from, None if it is another class."""
    for each in kind.__mro__:
        for package in _LIGHTNING:
            if each.__module__ == f"{package}.core.module" and each.__name__ == "LightningModule":
                return package
    return None


def _dummy(package: str) -> Any:
    return sys.modules[f"{package}.loggers.logger"].DummyLogger()
