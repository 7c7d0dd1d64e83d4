"""Files and functions stay small enough to be read at one sitting."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house.source import PACKAGES, ROOT, python_files

FILE_LINES = 400
FUNCTION_LINES = 60
PARAMETERS = 6
# The public face, fixed by the people who use it: Trainer(model, train_data, config) and six optional keywords.
# A control process is told everything at once.
MORE_PARAMETERS = {"lightwatch/trainer.py:__init__": 9, "control/process.py:__init__": 8}

SCRIPTS = [ROOT / "scripts" / name for name in ("bite", "endurance", "simulate", "soak")]
FILES = [*python_files(*PACKAGES, "tests", "scripts"), *SCRIPTS]


def shown(file: Path) -> str:
    return str(file.relative_to(ROOT))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many a caller may give, the object itself not counted."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return len([each for each in every if each.arg not in {"self", "cls"}])


def too_big(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8")
    wrong = []
    if len(text.splitlines()) > FILE_LINES:
        wrong.append(f"{file}: {len(text.splitlines())} lines; split it along a noun at {FILE_LINES}")
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > FUNCTION_LINES:
            wrong.append(f"{file}:{node.lineno} {node.name}: {lines} lines, at most {FUNCTION_LINES}")
        most = (
            MORE_PARAMETERS.get(f"{shown(file)}:{node.name}", PARAMETERS) if file.is_relative_to(ROOT) else PARAMETERS
        )
        if parameters(node) > most:
            wrong.append(f"{file}:{node.lineno} {node.name}: {parameters(node)} parameters, at most {most}")
    return wrong


@pytest.mark.parametrize("file", FILES, ids=shown)
def test_files_and_functions_keep_to_the_sizes(file: Path) -> None:
    """400 lines a file, 60 a function, six parameters."""
    assert not too_big(file)


def test_the_sizes_are_measured(tmp_path: Path) -> None:
    """One of each that is too big is found; just not too big is not."""
    body = "\n".join(["    pass"] * FUNCTION_LINES)
    file = tmp_path / "file.py"
    file.write_text(
        f"def long():\n{body}\n\n\ndef wide(self, a, b, c, *, d, e, f, g):\n    pass\n" + "#\n" * FILE_LINES
    )
    assert len(too_big(file)) == 3
    short = "\n".join(["    pass"] * (FUNCTION_LINES - 1))
    file.write_text(f"def long():\n{short}\n\n\ndef wide(self, a, b, c, *, d, e, f):\n    pass\n")
    assert not too_big(file)
