"""The package's parts lean on one another in one direction only; read from the source."""

import ast
import sys
from pathlib import Path

import pytest
from package_source import FILES, PACKAGE, ROOT, imports

# What each part may import besides the standard library, errors, and itself.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "utils": {"torch"},
    "image": {"torch", "torchvision", "numpy"},
    "network": {"torch", "numpy", "typing_extensions"},
    "attribution": {"torch", "typing_extensions", "network", "image"},
    "metrics": {"torch", "torchmetrics", "typing_extensions", "image"},
    "trust": {"torch", "matplotlib", "attribution", "metrics", "network", "image"},
    "rendering": {"torch", "torchvision", "numpy", "matplotlib", "PIL", "image"},
    "history": {"torch", "numpy", "matplotlib", "metrics", "rendering"},
    "loggers": {"torch", "numpy", "PIL", "lightning", "typing_extensions"},
    "benchmark": {
        "torch",
        "torchvision",
        "numpy",
        "matplotlib",
        "PIL",
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
        "attribution",
        "metrics",
        "trust",
        "rendering",
        "loggers",
        "history",
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
    "cli": {"torch", "lightning", "benchmark", "evaluation"},
    "__main__": {"cli"},
    # The top of the package only gathers names.
    "__init__": {"attribution", "callbacks", "history"},
}
# Not among the dependencies: may be imported only by a function that needs it.
OPTIONAL = {"sklearn"}
# Names that say nothing about what is inside.
EMPTY_NAMES = {"common", "core", "helper", "helpers", "misc", "util", "base", "functions", "tools"}

every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))


def part_of(path: Path) -> str:
    inside = path.relative_to(ROOT)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def reached(module: str) -> str:
    """Return the part of this package, or else the distribution, that an import reaches."""
    first, *rest = module.split(".")
    return rest[0] if first == PACKAGE and rest else first


@every_file
def test_imports_point_one_way(path: Path) -> None:
    allowed = ALLOWED[part_of(path)] | {part_of(path), "errors"}
    wrong = [
        str(found)
        for found in imports(path)
        if reached(found.module) not in allowed
        and reached(found.module) not in sys.stdlib_module_names
    ]
    assert wrong == []


@every_file
def test_nobody_imports_the_callbacks(path: Path) -> None:
    if part_of(path) in ("callbacks", "__init__"):
        return
    assert [str(i) for i in imports(path) if i.module.startswith(f"{PACKAGE}.callbacks")] == []


@every_file
def test_only_what_runs_on_it_knows_lightning(path: Path) -> None:
    if part_of(path) in ("callbacks", "loggers", "evaluation", "cli"):
        return
    known = {"lightning", "lightning_fabric", "pytorch_lightning"}
    assert [str(i) for i in imports(path) if i.module.split(".")[0] in known] == []


@every_file
def test_optional_packages_are_imported_where_they_are_used(path: Path) -> None:
    early = [i for i in imports(path) if i.module.split(".")[0] in OPTIONAL and not i.lazy]
    assert [str(i) for i in early] == []


def test_there_are_no_rings() -> None:
    # Of files, not parts: a ring inside one part also makes the order of imports matter.
    graph = {path: _files_imported_by(path) for path in FILES}
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        ring = " -> ".join(str(p.relative_to(ROOT)) for p in (*trail, path))
        assert path not in trail, f"imported in a ring: {ring}"
        if path not in done:
            for needed in graph[path]:
                visit(needed, (*trail, path))
            done.add(path)

    for path in FILES:
        visit(path, ())


def _files_imported_by(path: Path) -> list[Path]:
    found = []
    for imported in imports(path):
        parts = imported.module.split(".")
        if parts[0] != PACKAGE or imported.typing:
            continue
        for end in (len(parts), len(parts) - 1):
            file = ROOT.joinpath(*parts[1:end]).with_suffix(".py")
            folder = ROOT.joinpath(*parts[1:end]) / "__init__.py"
            target = next((f for f in (file, folder) if f.is_file() and f != ROOT / ".py"), None)
            if target is not None:
                found.append(target)
                break
    return [target for target in found if target != path]


@every_file
def test_names_say_what_is_inside(path: Path) -> None:
    names = path.relative_to(ROOT).with_suffix("").parts
    assert not EMPTY_NAMES & set(names)


@every_file
def test_files_are_of_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 300


@every_file
def test_input_is_never_checked_by_assert(path: Path) -> None:
    asserts = [n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)]
    assert asserts == []


def test_every_part_has_its_rules() -> None:
    assert {part_of(path) for path in FILES} <= set(ALLOWED)


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
