"""The names that users rely on: there, documented, and called as promised."""

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import lightning.pytorch as pl
import pytest
import torch
import torchmetrics
from package_source import FILES, PACKAGE, assert_none, module_name

import lightning_saliency
from lightning_saliency.attribution import AttributionMethod

MODULES = {module_name(path): path for path in FILES}
PACKAGES = [name for name, path in MODULES.items() if path.name == "__init__.py"]


def public_names(module: str) -> list[str]:
    """Return what a module offers: ``__all__``, or else what it defines without an underscore."""
    listed = getattr(importlib.import_module(module), "__all__", None)
    names = _defined_in(MODULES[module]) if listed is None else listed
    return [name for name in names if listed is not None or not name.startswith("_")]


def _defined_in(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name


def public_objects() -> Iterator[tuple[str, Any]]:
    """Yield the public functions and classes once each, by the full name of their definition."""
    for module in MODULES:
        for name in public_names(module):
            found = getattr(importlib.import_module(module), name)
            defined_here = getattr(found, "__module__", None) == module
            if defined_here and (inspect.isclass(found) or inspect.isroutine(found)):
                yield f"{module.removeprefix(PACKAGE + '.')}.{name}", found


def public_callables() -> Iterator[tuple[str, Any]]:
    """Yield the public functions and methods, without what a class inherits."""
    for name, found in public_objects():
        if not inspect.isclass(found):
            yield name, found
            continue
        # The methods of a function of autograd are torch's, and documented there.
        if issubclass(found, torch.autograd.Function):
            continue
        for attribute, member in vars(found).items():
            function = member.fget if isinstance(member, property) else member
            function = getattr(function, "__func__", function)
            if not attribute.startswith("_") and inspect.isfunction(function):
                yield f"{name}.{attribute}", function


def is_for_users(name: str) -> bool:
    """Whether users meet it: inside the machinery a signature may speak for itself."""
    is_inside = name.startswith(("callbacks.", "network.", "loggers."))
    found = OBJECTS.get(name) or OBJECTS.get(name.rpartition(".")[0])
    return not is_inside or (inspect.isclass(found) and issubclass(found, pl.Callback))


OBJECTS = dict(public_objects())
CALLABLES = dict(public_callables())


# --- __all__ ----------------------------------------------------------------------------------


def test_all_is_sorted_and_its_names_exist() -> None:
    for module, path in MODULES.items():
        names = public_names(module)
        assert len(names) == len(set(names)), module
        for written in _lists_of_names(path):
            assert written == sorted(written), module
        loaded = importlib.import_module(module)
        assert [name for name in names if not hasattr(loaded, name)] == [], module


def _lists_of_names(path: Path) -> list[list[str]]:
    """Return the lists that are written out for ``__all__``, and not computed."""
    body = ast.parse(path.read_text()).body
    values = [node.value for node in body if _sets_all(node)]  # type: ignore[attr-defined]
    return [ast.literal_eval(value) for value in values if isinstance(value, ast.List)]


def _sets_all(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def test_users_find_a_list_where_they_import_from() -> None:
    unlisted = [
        module
        for module in (*PACKAGES, *(f"{PACKAGE}.{name}" for name in ("errors", "utils")))
        if public_names(module) and not hasattr(importlib.import_module(module), "__all__")
    ]
    methods = [found.__module__ for found in lightning_saliency.attribution.METHODS]
    unlisted += [name for name in methods if not hasattr(importlib.import_module(name), "__all__")]
    assert_none(unlisted)


def test_all_lists_what_the_module_defines() -> None:
    hidden = [
        f"{module}.{name}"
        for module, path in MODULES.items()
        # What named.py offers is made by code.
        if path.name != "__init__.py" and not module.endswith(".named")
        for name in _defined_in(path)
        if not name.startswith("_") and name not in public_names(module)
    ]
    assert_none(hidden)


@pytest.mark.parametrize(
    ("package", "kind"),
    [
        ("attribution", AttributionMethod),
        ("callbacks", pl.Callback),
        ("metrics", torchmetrics.Metric),
    ],
)
def test_packages_export_every_one_of_their_kind(package: str, kind: type) -> None:
    # A user hands over the function itself; this makes a method of it.
    exported = {*public_names(f"{PACKAGE}.{package}"), "FromFunction"}
    concrete = {
        name.rpartition(".")[2]
        for name, found in OBJECTS.items()
        if name.startswith(f"{package}.")
        and inspect.isclass(found)
        and issubclass(found, kind)
        and not inspect.isabstract(found)
    }
    assert concrete <= exported


def test_packages_only_gather_names() -> None:
    gathered = (ast.Import, ast.ImportFrom, ast.Assign, ast.AugAssign, ast.Expr)
    others = [
        f"{package}, line {node.lineno}"
        for package in PACKAGES
        for node in ast.parse(MODULES[package].read_text()).body
        if not isinstance(node, gathered)
    ]
    assert_none(others)


def test_the_top_has_the_callbacks_and_what_looks_back_on_runs() -> None:
    callbacks = set(public_names(f"{PACKAGE}.callbacks"))
    looking_back = {"bisect", "compare", "export_maps", "load_maps", "replay", "report"}
    assert set(lightning_saliency.__all__) == callbacks | looking_back | {"__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", lightning_saliency.__version__)


# --- types ------------------------------------------------------------------------------------


def test_type_hints_can_be_resolved() -> None:
    # LightningCLI, editors and pydantic ask for them while the program runs.
    every = {**OBJECTS, **CALLABLES}
    unresolved = [name for name, found in every.items() if not _has_type_hints(found)]
    assert_none(unresolved)


def _has_type_hints(found: Any) -> bool:
    try:
        get_type_hints(found)
    except NameError:
        return False
    return True


def test_a_type_that_is_imported_for_checkers_alone_would_be_seen() -> None:
    def function(argument: "OnlyForCheckers") -> None:  # type: ignore[name-defined] # noqa: F821
        pass

    assert not _has_type_hints(function)


# --- docstrings -------------------------------------------------------------------------------


def test_everything_public_has_a_docstring() -> None:
    missing = [module for module in MODULES if not importlib.import_module(module).__doc__]
    # A dataclass without one is given its signature as docstring.
    missing += [
        name
        for name, found in OBJECTS.items()
        if not found.__doc__ or found.__doc__.startswith(f"{found.__name__}(")
    ]
    missing += [name for name, found in CALLABLES.items() if not _doc_of(name, found)]
    assert_none(missing)


def _doc_of(name: str, found: Any) -> str | None:
    """Return the docstring of a function, or the one that a method inherits."""
    owner = OBJECTS.get(name.rpartition(".")[0])
    return inspect.getdoc(getattr(owner, found.__name__, found) if owner else found)


# "(N, C, H, W)", "(N,)", "(N, classes)": at least one capital and a comma in parentheses.
SHAPE = re.compile(
    r"\([^()]*[A-Z][^()]*,[^()]*\)|\(([a-z0-9*]+|\.\.\.), [^()]*\)|(any|whatever|same) shape|scalar"
)


def test_functions_on_tensors_give_shapes() -> None:
    wrong = [
        name
        for name, function in CALLABLES.items()
        if is_for_users(name)
        and any(map(_mentions_tensor, inspect.get_annotations(function).values()))
        and not _gives_shapes(name, function)
    ]
    assert_none(wrong)


def _mentions_tensor(annotation: object) -> bool:
    return bool(re.search(r"\bTensor\b", str(annotation)))


def _gives_shapes(name: str, function: Any) -> bool:
    owner = OBJECTS.get(name.rpartition(".")[0])
    texts = [function.__doc__, owner and owner.__doc__]
    # An override keeps the promise of what it overrides.
    texts += [
        getattr(cls, function.__name__, None).__doc__ for cls in getattr(owner, "__mro__", ())
    ]
    return any(SHAPE.search(text) for text in texts if text)


def test_every_argument_is_described() -> None:
    missing = [
        f"{name}: {parameter}"
        for name, found in OBJECTS.items()
        if is_for_users(name)
        for parameter in _own_parameters(found)
        if not re.search(rf"\b{re.escape(parameter)}\b", _docs_of(found))
    ]
    assert_none(missing)


def _own_parameters(found: Any) -> list[str]:
    is_class = inspect.isclass(found)
    if is_class and not (dataclasses.is_dataclass(found) or "__init__" in vars(found)):
        return []
    if is_class and getattr(found, "_is_protocol", False):
        return []
    return [name for name in inspect.signature(found).parameters if not name.startswith("_")]


def _docs_of(found: Any) -> str:
    if not inspect.isclass(found):
        return found.__doc__ or ""
    own = [cls for cls in found.__mro__ if cls.__module__.startswith(PACKAGE)]
    return " ".join(cls.__doc__ or "" for cls in own)


def test_raised_errors_are_listed() -> None:
    missing = [
        f"{name}: {error}"
        for name, function in CALLABLES.items()
        if is_for_users(name)
        for error in _raised_in(function)
        if error not in (function.__doc__ or "")
    ]
    assert_none(missing)


def _raised_in(function: Any) -> list[str]:
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(inspect.unwrap(function))))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    names = [call.func.id for call in calls if _is_named_call(call)]  # type: ignore[attr-defined]
    return sorted({name for name in names if name.endswith("Error")})


def _is_named_call(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


# --- names and signatures that are fixed ------------------------------------------------------

REQUIRED = inspect.Parameter.empty
ANY = object()
"""There is a default, and it may change."""

GRADIENT_LIKE: dict[str, Any] = {
    "model": REQUIRED,
    "input": REQUIRED,
    "target": REQUIRED,
    "saliency_layer": "",
    "resize": False,
    "resize_mode": "bilinear",
    "smooth": 0.0,
}
FUNCTIONS: dict[str, dict[str, Any]] = {
    "attribution.gradient.gradient": GRADIENT_LIKE,
    "attribution.deconvnet.deconvnet": GRADIENT_LIKE,
    "attribution.guided_backprop.guided_backprop": GRADIENT_LIKE,
    "attribution.grad_cam.grad_cam": GRADIENT_LIKE,
    "attribution.linear_approx.linear_approx": GRADIENT_LIKE,
    "attribution.excitation_backprop.excitation_backprop": GRADIENT_LIKE,
    "attribution.excitation_backprop.contrastive_excitation_backprop": {
        **GRADIENT_LIKE,
        "contrast_layer": None,
        "classifier_layer": None,
    },
    "attribution.rise.rise": {
        "model": REQUIRED,
        "input": REQUIRED,
        "num_masks": ANY,
        "num_cells": 7,
        "p": 0.5,
        "batch_size": ANY,
        "seed": 0,
        "resize": False,
    },
    "attribution.rise.rise_class": {
        "model": REQUIRED,
        "input": REQUIRED,
        "target": REQUIRED,
        "num_masks": ANY,
        "num_cells": 7,
        "p": 0.5,
        "batch_size": ANY,
        "seed": 0,
        "resize": False,
    },
    "attribution.extremal_perturbation.extremal_perturbation": {
        "model": REQUIRED,
        "input": REQUIRED,
        "target": REQUIRED,
        "areas": (0.1,),
        "perturbation": "blur",
        "max_iter": ANY,
        "num_levels": 8,
        "step": ANY,
        "sigma": ANY,
        "jitter": True,
        "variant": "preserve",
        "reward_func": ANY,
        "debug": False,
    },
    "benchmark.get_example_data": {"arch": ANY},
    "benchmark.plot_example": {
        "input": REQUIRED,
        "saliency": REQUIRED,
        "method": REQUIRED,
        "category_id": REQUIRED,
        "save_path": None,
        "show_plot": False,
    },
    "utils.get_device": {},
}
NAMES: dict[str, list[str]] = {
    "attribution": [
        "AttributionMethod",
        "ContrastiveExcitationBackprop",
        "DeconvNet",
        "ExcitationBackprop",
        "ExtremalPerturbation",
        "GradCAM",
        "Gradient",
        "GuidedBackprop",
        "LinearApprox",
        "RISE",
    ],
    "attribution.extremal_perturbation": ["contrastive_reward", "simple_reward"],
    "": [
        "ContrastiveExcitationBackpropCallback",
        "DeconvNetCallback",
        "ExcitationBackpropCallback",
        "ExtremalPerturbationCallback",
        "GradCAMCallback",
        "GradientCallback",
        "GuidedBackpropCallback",
        "LinearApproxCallback",
        "RISECallback",
        "SaliencyCallback",
    ],
}
CALLBACK_SETTINGS: dict[str, Any] = {
    "samples": 8,
    "dataloader_idx": 0,
    "target": "label",
    "every_n_epochs": 1,
    "unpack": None,
    "forward": None,
    "mean": None,
    "std": None,
    "class_names": None,
    "max_overhead": None,
    "on_error": "warn",
    "name": None,
}


def load(name: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name}".rstrip("."))


def assert_called_like(function: Any, wanted: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    for name, default in wanted.items():
        assert name in parameters
        if default is ANY:
            assert parameters[name].default is not REQUIRED
        else:
            assert parameters[name].default == default


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_called_as_promised(name: str) -> None:
    module, _, function = name.rpartition(".")
    found = getattr(load(module), function)
    wanted = FUNCTIONS[name]
    assert_called_like(found, wanted)
    # What has no default comes first, and in this order.
    required = [argument for argument, default in wanted.items() if default is REQUIRED]
    leading = [argument for argument in inspect.signature(found).parameters if argument in required]
    assert leading == required


@pytest.mark.parametrize("name", [n for n, s in FUNCTIONS.items() if s is GRADIENT_LIKE])
def test_gradient_like_functions_take_their_arguments_in_one_order(name: str) -> None:
    module, _, function = name.rpartition(".")
    parameters = list(inspect.signature(getattr(load(module), function)).parameters)
    assert parameters[: len(GRADIENT_LIKE)] == list(GRADIENT_LIKE)


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in NAMES.items() for n in names])
def test_fixed_names(module: str, name: str) -> None:
    assert name in public_names(f"{PACKAGE}.{module}".rstrip("."))


@pytest.mark.parametrize("name", NAMES[""])
def test_callbacks_take_the_same_settings(name: str) -> None:
    callback = getattr(lightning_saliency, name)
    assert_called_like(callback, CALLBACK_SETTINGS)
    if name == "SaliencyCallback":
        assert next(iter(inspect.signature(callback).parameters)) == "method"
        return
    method = getattr(load("attribution"), name.removesuffix("Callback"))
    for field in dataclasses.fields(method):
        parameter = inspect.signature(callback).parameters[field.name]
        assert parameter.default == field.default
