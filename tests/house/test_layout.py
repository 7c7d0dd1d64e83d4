"""Where things are, and that the files which tools read agree with each other."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import lightwatch
from tests.house.source import PACKAGES, ROOT, python_files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NO_NOUNS = {"base", "common", "core", "helper", "helpers", "manager", "misc", "util", "utils"}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_house_has_its_files() -> None:
    """What a newcomer, a packager and a tool each look for stands at the root."""
    files = ("README.md", "SECURITY.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "constraints.txt", ".gitignore")
    for name in files:
        assert (ROOT / name).read_text(encoding="utf-8").strip(), name
    assert (ROOT / "lightwatch" / "py.typed").exists()
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert lightwatch.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["scripts/train", "scripts/test", "scripts/check", "scripts/bite", ".ci/run"])
def test_scripts_can_be_run(name: str) -> None:
    """Executable, and a shell script stops at its first error."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert os.access(ROOT / name, os.X_OK)
    assert text.startswith("#!/usr/bin/env ")
    assert "bash" not in text.splitlines()[0] or "set -euo pipefail" in text


@pytest.mark.parametrize("file", python_files(*PACKAGES), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_is_a_noun_and_says_what_it_is_for(file: Path) -> None:
    """No drawer for odds and ends; the first thing in a file is its purpose."""
    assert file.stem not in NO_NOUNS
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


def test_folders_of_tests_are_no_packages() -> None:
    """tests/control with an __init__.py could be imported as `control`."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_nothing_that_tools_leave_is_kept() -> None:
    """Environments, runs, caches and builds are ignored by git."""
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/.venv", "/.venv.*", "/runs/", "__pycache__/", "*.egg-info/", "/build/", "/.pytest_cache/"} <= set(ignored)


def test_only_one_foreign_index_is_named() -> None:
    """torch's own step of the set-up may go to PyTorch's public index; nothing else overrides the user's pip."""
    named = re.compile(r"(?:index-url|find-links|https?://[^\s\"']*(?:simple|whl))[^\n]*")
    for name in ("scripts/environment.py", "scripts/setup.sh", "scripts/train", "scripts/test", "pyproject.toml"):
        for line in named.findall((ROOT / name).read_text(encoding="utf-8")):
            assert "CPU_INDEX" in line or "https://download.pytorch.org/whl/cpu" in line, (name, line)


def test_constraints_pin_everything_that_gets_installed() -> None:
    """Every distribution that lightwatch and its tests need, however far down, has one version, and it is the one here.

    The exception is what torch itself pins exactly: the libraries of its CUDA build.
    """
    known = {name.replace("_", "-").lower(): version for name, version in pins().items()}
    todo = [Requirement(text) for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]]
    seen = set()
    while todo:
        requirement = todo.pop()
        name = requirement.name.replace("_", "-").lower()
        if name in seen or name.startswith(("nvidia-", "cuda-", "triton")):
            continue
        seen.add(name)
        assert name in known, f"{name} is not pinned"
        assert requirement.specifier.contains(known[name]), f"{requirement} does not allow the pin {known[name]}"
        assert metadata.version(name).partition("+")[0] == known[name]
        for text in metadata.requires(name) or ():
            inner = Requirement(text)
            wanted = inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in ("", *requirement.extras))
            todo += [inner] if wanted else []
    assert seen == set(known), f"pinned and not needed: {sorted(set(known) - seen)}"


def test_the_command_is_the_one_that_the_wheel_promises() -> None:
    """`lightwatch` and `python -m lightwatch` are one function."""
    assert PROJECT["scripts"] == {"lightwatch": "lightwatch.cli.main:main"}
    assert PROJECT["requires-python"] == ">=3.11"
