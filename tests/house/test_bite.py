"""scripts/bite finds tests that would pass on nothing, and its table names what there is."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.house.source import ROOT

ROWS = tomllib.loads((ROOT / "tests" / "bite.toml").read_text(encoding="utf-8"))["row"]

TABLE = """
[[row]]
function = "sums.py:Sum.of"
test = "tests/test_sums.py::test_a_sum_is_a_sum"

[[row]]
function = "sums.py:short"
test = "tests/test_sums.py::test_nothing_is_asked"
"""
SUMS = """
class Sum:
    def of(self, numbers):
        \"\"\"Add – them.\"\"\"
        total = 0
        for number in numbers:
            total += number
        return total


def short(): return 3
"""
TESTS = """
from sums import Sum, short

def test_a_sum_is_a_sum():
    assert Sum().of([1, 2]) == 3

def test_nothing_is_asked():
    short()
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "scripts" / "bite", tmp_path / "scripts" / "bite")
    (tmp_path / "tests" / "bite.toml").write_text(TABLE)
    (tmp_path / "sums.py").write_text(SUMS)
    (tmp_path / "tests" / "test_sums.py").write_text(TESTS)
    return tmp_path


def bite(tree: Path, *texts: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(tree / "scripts" / "bite"), *texts]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


def test_a_test_that_notices_nothing_is_found(tree: Path) -> None:
    """One row holds, one does not; the tree itself is not touched."""
    done = bite(tree)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok   sums.py:Sum.of")
    assert lines[1].startswith("TOOTHLESS sums.py:short")
    assert lines[2].startswith("bite: 1 of 2")
    assert (tree / "sums.py").read_text() == SUMS


def test_rows_can_be_chosen(tree: Path) -> None:
    """By any text in them."""
    done = bite(tree, "Sum.of")
    assert (done.returncode, done.stdout.splitlines()[-1].split()[1:4]) == (0, ["1", "of", "1"])


def test_a_test_that_fails_anyway_proves_nothing(tree: Path) -> None:
    """First everything must pass."""
    (tree / "sums.py").write_text(SUMS.replace("total = 0", "total = 1"))
    done = bite(tree, "Sum.of")
    assert done.returncode == 1
    assert "must pass before" in done.stdout


@cache
def tree_of(path: str) -> ast.Module:
    """Of one of the project's files: hundreds of rows name the same."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["function"])
def test_the_table_names_what_there_is(row: dict[str, str]) -> None:
    """A function and a test of the names given; a row is a feature, a function and a test."""
    assert set(row) == {"feature", "function", "test"}
    path, _, name = row["function"].partition(":")
    node: ast.AST = tree_of(path)
    for part in name.split("."):
        node = next(each for each in ast.iter_child_nodes(node) if getattr(each, "name", None) == part)
    path, _, name = row["test"].partition("::")
    names = {each.name for each in tree_of(path).body if hasattr(each, "name")}
    assert name.partition("[")[0] in names
