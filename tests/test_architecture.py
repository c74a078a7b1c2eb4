"""The package's parts lean on one another in one direction only; read from the source."""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from package_source import (
    FILES,
    PACKAGE,
    ROOT,
    Import,
    assert_none,
    files_imported_by,
    imports,
    inside,
    rings,
)

# What each part may import besides the standard library, errors, and itself.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "renamed": set(),
    "whole_file": set(),
    "utils": {"torch"},
    "image": {"torch", "torchvision", "numpy"},
    "network": {"torch", "numpy", "typing_extensions"},
    "attribution": {"torch", "typing_extensions", "network", "image"},
    "targets": {"torch", "network"},
    "metrics": {"torch", "torchmetrics", "typing_extensions", "image"},
    "trust": {"torch", "matplotlib", "attribution", "metrics", "network", "image", "rendering"},
    "rendering": {"torch", "torchvision", "numpy", "matplotlib", "PIL", "image"},
    "history": {"torch", "numpy", "matplotlib", "metrics", "rendering"},
    "reporting": {
        "torch",
        "matplotlib",
        "jinja2",
        "markupsafe",
        "tensorboard",
        "google",
        "metrics",
        "rendering",
        "history",
        "image",
    },
    "loggers": {"torch", "numpy", "PIL", "lightning", "typing_extensions"},
    "benchmark": {
        "torch",
        "torchvision",
        "numpy",
        "matplotlib",
        "PIL",
        "scipy",
        "sklearn",
        "typing_extensions",
        "attribution",
        "metrics",
        "image",
    },
    "callbacks": {
        "torch",
        "torchmetrics",
        "lightning",
        "typing_extensions",
        "targets",
        "attribution",
        "metrics",
        "trust",
        "rendering",
        "loggers",
        "history",
        "reporting",
        "network",
        "image",
    },
    "evaluation": {
        "torch",
        "torchmetrics",
        "lightning",
        "attribution",
        "metrics",
        "network",
        "benchmark",
    },
    "replaying": {"torch", "lightning", "typing_extensions", "callbacks", "metrics"},
    "cli": {
        "torch",
        "lightning",
        "yaml",
        "attribution",
        "benchmark",
        "callbacks",
        "evaluation",
        "history",
        "replaying",
        "reporting",
    },
    "__main__": {"cli"},
    # The top of the package only gathers names.
    "__init__": {"attribution", "callbacks", "replaying", "history", "reporting"},
}
# Every part may know these.
EVERYWHERE = {"errors", "renamed", "whole_file"}
# Not among the dependencies: may be imported only by a function that needs it.
OPTIONAL = {"scipy", "sklearn", "yaml"}
LIGHTNING = {"lightning", "lightning_fabric", "pytorch_lightning"}
# The only ones that may be given a saliency callback.
LISTENERS = ("callbacks/drift_alarm/", "callbacks/named.py", "replaying/bisect.py")
# All that they may ask it for.
OF_THE_CALLBACK = {"series", "tags", "filmstrip"}


def part_of(path: Path) -> str:
    within = path.relative_to(ROOT)
    return within.parts[0] if len(within.parts) > 1 else within.stem


def reached(module: str) -> str:
    """Return the part of this package, or else the distribution, that an import reaches."""
    first, *rest = module.split(".")
    return rest[0] if first == PACKAGE and rest else first


def each_import() -> Iterator[tuple[Path, Import]]:
    for path in FILES:
        for found in imports(path):
            yield path, found


def test_every_part_has_its_rules() -> None:
    assert {part_of(path) for path in FILES} == set(ALLOWED)


def test_imports_point_one_way() -> None:
    wrong = [
        f"{inside(path)}: {found}"
        for path, found in each_import()
        if reached(found.module) not in ALLOWED[part_of(path)] | {part_of(path)} | EVERYWHERE
        and reached(found.module) not in sys.stdlib_module_names
    ]
    assert_none(wrong)


def test_nobody_imports_the_callbacks() -> None:
    wrong = [
        f"{inside(path)}: {found}"
        for path, found in each_import()
        if part_of(path) not in ("callbacks", "cli", "replaying", "__init__")
        and found.module.startswith(f"{PACKAGE}.callbacks")
    ]
    assert_none(wrong)


def test_only_what_runs_on_it_knows_lightning() -> None:
    wrong = [
        f"{inside(path)}: {found}"
        for path, found in each_import()
        if part_of(path) not in ("callbacks", "replaying", "loggers", "evaluation", "cli")
        and found.module.split(".")[0] in LIGHTNING
    ]
    assert_none(wrong)


def test_optional_packages_are_imported_where_they_are_used() -> None:
    early = [
        f"{inside(path)}: {found}"
        for path, found in each_import()
        if found.module.split(".")[0] in OPTIONAL and not found.lazy
    ]
    assert_none(early)


def test_there_are_no_rings() -> None:
    # Of files, not parts: a ring inside one part also makes the order of imports matter. Imports
    # for types alone count: who must know whom is as tangled with them as without.
    found = rings({path: files_imported_by(path) for path in FILES})
    assert_none(" <-> ".join(sorted(map(inside, ring))) for ring in found)


def test_only_listeners_are_given_the_callback() -> None:
    taking = [
        f"{inside(path)}: {function}"
        for path in FILES
        for function in _functions_that_take_the_callback(ast.parse(path.read_text()))
        if not inside(path).startswith(LISTENERS)
    ]
    assert_none(taking)


def test_listeners_reach_into_nothing_of_the_callback() -> None:
    assert_none(
        f"{inside(path)}: {access}"
        for path in FILES
        if inside(path).startswith(LISTENERS)
        for access in _reaching_into_the_callback(ast.parse(path.read_text()))
    )


def _functions_that_take_the_callback(module: ast.Module) -> list[str]:
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    return [each.name for each in functions for _ in _callbacks_among(ast.walk(each.args))]


def _reaching_into_the_callback(module: ast.Module) -> list[str]:
    # A name that stands for the callback once does so in the whole file.
    names = set(_callbacks_among(ast.walk(module)))
    return [
        ast.unparse(node)
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in names - {"self"}
        and node.attr not in OF_THE_CALLBACK
    ]


def _callbacks_among(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        hint = node.annotation if isinstance(node, ast.arg) else None
        if isinstance(node, ast.arg) and hint and "SaliencyCallback" in ast.unparse(hint):
            yield node.arg


def test_input_is_never_checked_by_assert() -> None:
    asserts = [
        f"{inside(path)}: line {node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert_none(asserts)


# --- the rules themselves ---------------------------------------------------------------------


def test_a_wrong_import_would_be_seen(tmp_path: Path) -> None:
    source = tmp_path / "wrong.py"
    source.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import lightning.pytorch as pl\n"
        "def f():\n    from lightning_saliency.callbacks.saliency import SaliencyCallback\n"
    )
    found = {i.module: (i.lazy, i.typing) for i in imports(source)}
    assert found["lightning.pytorch"] == (False, True)
    assert found["lightning_saliency.callbacks.saliency.SaliencyCallback"] == (True, False)
    assert files_imported_by(source) == {ROOT / "callbacks" / "saliency.py"}


def test_a_ring_would_be_seen() -> None:
    a, b, c, d = map(Path, "abcd")
    assert rings({a: {b}, b: {c}, c: {a, d}, d: set()}) == [{a, b, c}]
    assert rings({a: {b, c}, b: {c}, c: {d}, d: set()}) == []


def test_a_function_that_takes_the_callback_would_be_seen() -> None:
    source = (
        "def f(one, *, callback: 'SaliencyCallback | None' = None): pass\n"
        "class C:\n    def method(self, callback: SaliencyCallback): pass\n"
    )
    assert _functions_that_take_the_callback(ast.parse(source)) == ["f"]


def test_reaching_into_the_callback_would_be_seen() -> None:
    source = "def f(source: SaliencyCallback): return source.tags, source._budget.made\n"
    assert _reaching_into_the_callback(ast.parse(source)) == ["source._budget"]
