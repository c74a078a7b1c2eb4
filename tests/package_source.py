"""The package's source, as the tests that read it need it."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import lightning_saliency

ROOT = Path(lightning_saliency.__file__).parent
PACKAGE = ROOT.name
FILES = sorted(ROOT.rglob("*.py"))


class Import(NamedTuple):
    """One module that a file imports, wherever in the file that stands."""

    module: str
    line: int
    lazy: bool
    """It happens when a function runs, not when the file is imported."""
    typing: bool
    """It never happens; only the type checker reads it."""

    def __str__(self) -> str:
        return f"{self.module} (line {self.line})"


def assert_none(offenders: Iterable[str]) -> None:
    """Fail with all offenders against a rule, one in each line."""
    found = sorted(offenders)
    assert not found, "\n".join([f"{len(found)} against the rule:", *found])


def inside(path: Path) -> str:
    """Return ``network/layers.py`` for the path of that file."""
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """Return ``lightning_saliency.network.layers`` for the path of that file."""
    parts = (PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> list[Import]:
    """Return what a file imports; ``from package import name`` counts as ``package.name``."""
    return list(_imports_in(ast.parse(path.read_text()), path, lazy=False, typing=False))


def files_imported_by(path: Path) -> set[Path]:
    """Return the package's files that a file imports, for its types alone too."""
    found = {_file_of(each.module) for each in imports(path)} - {path, None}
    return {file for file in found if file is not None}


def rings(graph: dict[Path, set[Path]]) -> list[set[Path]]:
    """Return the largest groups of files of which each imports, at last, all others."""
    reached = {path: _reached_from(path, graph) for path in graph}
    found: list[set[Path]] = []
    for path in graph:
        ring = {other for other in reached[path] if path in reached[other]}
        if ring and ring not in found:
            found.append(ring)
    return found


def _reached_from(path: Path, graph: dict[Path, set[Path]]) -> set[Path]:
    seen: set[Path] = set()
    waiting = list(graph[path])
    while waiting:
        each = waiting.pop()
        if each not in seen:
            seen.add(each)
            waiting += graph[each]
    return seen


def _file_of(module: str) -> Path | None:
    first, *rest = module.split(".")
    if first != PACKAGE:
        return None
    # The last part may be a name in the module.
    for parts in (rest, rest[:-1]):
        for file in (
            ROOT.joinpath(*parts).with_suffix(".py"),
            ROOT.joinpath(*parts, "__init__.py"),
        ):
            if file.is_file():
                return file
    return None


def _imports_in(node: ast.AST, path: Path, lazy: bool, typing: bool) -> Iterator[Import]:
    modules: list[str] = []
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        modules = [f"{_start_of(node, path)}.{alias.name}" for alias in node.names]
    yield from (Import(module, node.lineno, lazy, typing) for module in modules)
    lazy = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    typing = typing or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    for child in ast.iter_child_nodes(node):
        yield from _imports_in(child, path, lazy, typing)


def _start_of(node: ast.ImportFrom, path: Path) -> str:
    start = node.module or ""
    if node.level:
        parts = module_name(path).split(".")
        parts = parts if path.name == "__init__.py" else parts[:-1]
        start = ".".join([*parts[: len(parts) - node.level + 1], start])
    return start.rstrip(".")
