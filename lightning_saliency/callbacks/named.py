"""One callback for each method, with the settings of the method and of the callback.

``GradCAMCallback(saliency_layer="layer4", samples=16)`` is
``SaliencyCallback(GradCAM(saliency_layer="layer4"), samples=16)``, in a form that command lines,
configuration files, ``help`` and editors can read. The classes are made here from the methods that
:mod:`lightning_saliency.attribution` exports: a new method has its callback by being exported.

Editors and type checkers, which do not run code, read ``named.pyi`` beside this file.
:func:`write_stub` makes it, and ``make stubs`` calls that; it is part of every release.
"""

import inspect
import re
import textwrap
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_saliency.attribution import METHODS
from lightning_saliency.attribution.method import AttributionMethod
from lightning_saliency.callbacks.saliency import SaliencyCallback

_METHODS: dict[str, type[AttributionMethod]] = {
    f"{method.__name__}Callback": method for method in METHODS
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
    parameters, of_method = _parameters(method), inspect.signature(method).parameters
    signature = inspect.Signature([_SELF, *parameters], return_annotation=None)

    def __init__(self: SaliencyCallback, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        try:
            given = signature.bind(self, *args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{name}.__init__() {error}") from None
        settings = {key: value for key, value in given.items() if key in of_method}
        rest = {key: value for key, value in given.items() if key not in {"self", *of_method}}
        SaliencyCallback.__init__(self, method(**settings), **rest)

    documented = _documented(method) | _documented(SaliencyCallback)
    entries = [f"{_INDENT}{each.name}: {documented[each.name]}" for each in parameters]
    summary, _, _ = inspect.cleandoc(method.__doc__ or "").partition("\n\nArgs:")
    text = f"Explain the same validation samples by {method.__name__} while a network trains."
    described: Any = __init__
    described.__signature__ = signature
    described.__qualname__ = f"{name}.__init__"
    described.__annotations__ = {each.name: each.annotation for each in parameters}
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
        _type_text(each.annotation) for method in _METHODS.values() for each in _parameters(method)
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
    text = textwrap.indent(f'"""{inspect.cleandoc(kind.__doc__)}\n"""', _INDENT)
    settings = [
        f"{_INDENT * 2}{each.name}: {_type_text(each.annotation)} = {each.default!r},"
        for each in _parameters(method)
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


def _parameters(method: type[AttributionMethod]) -> list[inspect.Parameter]:
    """Return the settings of a method, and then those of the callback but ``method``."""
    settings = _typed(SaliencyCallback, SaliencyCallback.__init__)
    return [*_typed(method, method), *(each for each in settings if each.name != "method")]


def _typed(called: Callable[..., Any], annotated: object) -> list[inspect.Parameter]:
    """Return the parameters of a call, with types instead of their names."""
    hints = typing.get_type_hints(annotated)
    return [
        each.replace(kind=each.POSITIONAL_OR_KEYWORD, annotation=hints[each.name])
        for each in inspect.signature(called).parameters.values()
    ]


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
