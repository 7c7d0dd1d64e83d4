"""The project's own Python files, as text and as trees of syntax: what the tests of the house look at."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("lightwatch", "control", "spheres")


@dataclass(frozen=True, order=True)
class Import:
    """One name that a file imports, resolved: `.wire` in control/server.py is `control.wire`.

    late: inside a function. typing_only: under `if TYPE_CHECKING`. relative: written with leading dots.
    """

    module: str
    line: int
    late: bool
    typing_only: bool
    relative: bool

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


def python_files(*folders: str) -> list[Path]:
    return sorted(
        file for folder in folders for file in (ROOT / folder).rglob("*.py") if "__pycache__" not in file.parts
    )


def modules(package: str) -> dict[str, Path]:
    """Dotted name to file, for one package; a package's own file has the package's name."""
    named = {}
    for file in python_files(package):
        parts = file.relative_to(ROOT).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return named


def imports(name: str, file: Path, known: set[str]) -> list[Import]:
    """Everything that the file imports, wherever it stands. `from a import b` is a.b if that is a module we know."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    home = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = []
    for node, late, typing_only in _walk(tree, False, False):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno, late, typing_only, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = home.split(".")[: len(home.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                module = inner if inner in known else base
                found.append(Import(module, node.lineno, late, typing_only, node.level > 0))
    return found


def _walk(node: ast.AST, late: bool, typing_only: bool) -> Iterator[tuple[ast.AST, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        yield child, late, typing_only
        inside = late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = typing_only or (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"))
        yield from _walk(child, inside, typing)
