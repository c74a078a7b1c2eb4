"""One callback for each method, with the settings of the method and of the callback.

``GradCAMCallback(saliency_layer="layer4", samples=16)`` is
``SaliencyCallback(GradCAM(saliency_layer="layer4"), samples=16)``, in a form that command lines,
configuration files, ``help`` and editors can read. The classes are made here from the methods that
:mod:`lightning_saliency.attribution` exports: a new method has its callback by being exported.

``python -m lightning_saliency.callbacks.named`` writes ``named.pyi`` beside this file, for editors
and type checkers, which do not run code. ``make`` does so with each installation.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_saliency import attribution
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.callbacks.saliency import SaliencyCallback

_METHODS: dict[str, type[AttributionMethod]] = {
    f"{name}Callback": kind
    for name, kind in vars(attribution).items()
    if inspect.isclass(kind)
    and issubclass(kind, AttributionMethod)
    and kind is not AttributionMethod
    and name in attribution.__all__
}

__all__ = sorted(_METHODS)


def named_callback(name: str, method: type[AttributionMethod]) -> type[SaliencyCallback]:
    """Return a callback class that takes the settings of a method and those of the callback.

    Args:
        name: of the class.
        method: its fields come first, with their defaults, then all settings of
            :class:`SaliencyCallback` but ``method``.
    """
    of_method = _parameters(method)
    of_callback = _parameters(SaliencyCallback)
    del of_callback["method"]
    signature = inspect.Signature(
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *of_method.values(),
            *of_callback.values(),
        ],
        return_annotation=None,
    )

    def __init__(self: SaliencyCallback, *args: Any, **kwargs: Any) -> None:
        try:
            given = signature.bind(self, *args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}.__init__() {error}") from None
        settings = {key: value for key, value in given.items() if key in of_method}
        rest = {key: value for key, value in given.items() if key in of_callback}
        SaliencyCallback.__init__(self, method(**settings), **rest)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__.__qualname__ = f"{name}.__init__"
    documented = _documented(method) | _documented(SaliencyCallback)
    entries = [f"    {key}: {documented[key]}" for key in [*of_method, *of_callback]]
    summary = inspect.cleandoc(method.__doc__ or "").split("\n\nArgs:")[0]
    __init__.__doc__ = "\n".join([f"Make the callback of {method.__name__}.", "", "Args:", *entries])
    namespace = {
        "__init__": __init__,
        "__module__": __name__,
        "__qualname__": name,
        "__doc__": "\n".join(
            [
                f"Explain the validation samples by {method.__name__} while a network trains.",
                "",
                summary,
                "",
                "Args:",
                *entries,
            ]
        ),
    }
    return type(name, (SaliencyCallback,), namespace)


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class, with types instead of their names."""
    hints = typing.get_type_hints(kind.__init__)
    return {
        name: parameter.replace(
            kind=inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=hints.get(name, Any)
        )
        for name, parameter in inspect.signature(kind).parameters.items()
    }


def _documented(kind: type) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say of each argument or attribute."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        for section in re.findall(r"^(?:Args|Attributes):\n((?:(?: .*)?\n?)*)", text, re.MULTILINE):
            for entry in re.findall(r"^    (\w+): ((?:.*\n?)(?:(?:     .*)?\n?)*)", section, re.M):
                found[entry[0]] = entry[1].rstrip()
    return found


globals().update({name: named_callback(name, method) for name, method in _METHODS.items()})


def __getattr__(name: str) -> type[SaliencyCallback]:
    # For type checkers that find no named.pyi: the names above are made by code.
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
