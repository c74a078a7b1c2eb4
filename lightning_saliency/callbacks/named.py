"""One callback for each method, with the settings of the method and of the callback.

``GradCAMCallback(saliency_layer="layer4", samples=16)`` is
``SaliencyCallback(GradCAM(saliency_layer="layer4"), samples=16)``, in a form that command lines,
configuration files, ``help`` and editors can read. The classes are made here from the methods that
:mod:`lightning_saliency.attribution` exports: a new method has its callback by being exported.

Editors and type checkers, which do not run code, read ``named.pyi`` beside this file.
:func:`write_stub` makes it, and ``make stubs`` calls that; it is part of every release.
"""

from __future__ import annotations

import inspect
import re
import textwrap
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

_SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
_INDENT = " " * 4


def named_callback(name: str, method: type[AttributionMethod]) -> type[SaliencyCallback]:
    """Return a callback class that takes the settings of a method and those of the callback.

    Args:
        name: of the class.
        method: its fields come first, with their defaults, then all settings of
            :class:`SaliencyCallback` but ``method``.
    """
    of_method, of_callback = _method_parameters(method), _callback_parameters()
    signature = inspect.Signature(
        [_SELF, *of_method.values(), *of_callback.values()], return_annotation=None
    )

    def __init__(self: SaliencyCallback, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        try:
            given = signature.bind(self, *args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{name}.__init__() {error}") from None
        settings = {key: value for key, value in given.items() if key in of_method}
        rest = {key: value for key, value in given.items() if key in of_callback}
        SaliencyCallback.__init__(self, method(**settings), **rest)

    documented = _documented(method) | _documented(SaliencyCallback)
    entries = [f"{_INDENT}{key}: {documented[key]}" for key in (*of_method, *of_callback)]
    summary, _, _ = inspect.cleandoc(method.__doc__ or "").partition("\n\nArgs:")
    text = f"Explain the same validation samples by {method.__name__} while a network trains."
    described: Any = __init__
    described.__signature__ = signature
    described.__qualname__ = f"{name}.__init__"
    described.__annotations__ = {
        each.name: each.annotation for each in (*of_method.values(), *of_callback.values())
    }
    namespace = {
        "__init__": __init__,
        "__module__": __name__,
        "__qualname__": name,
        "__doc__": "\n".join([text, "", summary, "", "Args:", *entries, ""]),
    }
    return type(name, (SaliencyCallback,), namespace)


def write_stub() -> Path:
    """Write ``named.pyi`` beside this file: the same classes, spelled out.

    Returns:
        The file.
    """
    path = Path(__file__).with_suffix(".pyi")
    classes = [_class_stub(name, method) for name, method in sorted(_METHODS.items())]
    text = "\n\n".join(classes)
    types = "\n".join(
        _type_text(each.annotation)
        for method in _METHODS.values()
        for each in (*_method_parameters(method).values(), *_callback_parameters().values())
    )
    modules = sorted(set(re.findall(r"\b([a-z_]\w*(?:\.[a-z_]\w*)*)\.[A-Z]", types)))
    imports = [f"import {module}" for module in modules]
    listed = "\n".join(f'{_INDENT}"{name}",' for name in sorted(_METHODS))
    head = [
        '"""Written by named.write_stub: change the methods, not this file."""',
        "",
        *imports,
        "",
        f"from {SaliencyCallback.__module__} import SaliencyCallback",
        "",
        f"__all__ = [\n{listed}\n]",
    ]
    path.write_text("\n".join(head) + "\n\n" + text + "\n")
    return path


def _class_stub(name: str, method: type[AttributionMethod]) -> str:
    kind = globals()[name]
    parameters = [*_method_parameters(method).values(), *_callback_parameters().values()]
    text = textwrap.indent(f'"""{inspect.cleandoc(kind.__doc__)}\n"""', _INDENT)
    settings = [
        f"{_INDENT * 2}{each.name}: {_type_text(each.annotation)} = {each.default!r},"
        for each in parameters
    ]
    return "\n".join(
        [
            f"class {name}(SaliencyCallback):",
            text,
            f"{_INDENT}def __init__(",
            f"{_INDENT * 2}self,",
            *settings,
            f"{_INDENT}) -> None: ...",
        ]
    )


def _method_parameters(method: type[AttributionMethod]) -> dict[str, inspect.Parameter]:
    return _typed(inspect.signature(method), typing.get_type_hints(method))


def _callback_parameters() -> dict[str, inspect.Parameter]:
    hints = typing.get_type_hints(SaliencyCallback.__init__)
    found = _typed(inspect.signature(SaliencyCallback), hints)
    del found["method"]
    return found


def _typed(signature: inspect.Signature, hints: Mapping[str, Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters with types instead of their names."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return {
        name: parameter.replace(kind=kind, annotation=hints[name])
        for name, parameter in signature.parameters.items()
    }


def _type_text(annotation: Any) -> str:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        module = annotation.__module__
        return annotation.__name__ if module == "builtins" else f"{module}.{annotation.__name__}"
    return repr(annotation).replace("NoneType", "None")


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
