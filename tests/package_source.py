"""The package's source, as the tests that read it need it."""

import ast
from collections.abc import Iterator
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


def module_name(path: Path) -> str:
    """Return ``lightning_saliency.network.layers`` for the path of that file."""
    parts = (PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> list[Import]:
    """Return what a file imports; ``from package import name`` counts as ``package.name``."""
    return list(_imports_in(ast.parse(path.read_text()), path, lazy=False, typing=False))


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
