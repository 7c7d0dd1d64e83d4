"""Crash points: every name in the table stands at exactly one place in the code, and fires once in a run."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from control import crash
from control.crash import MARK, POINTS, VARIABLE, Point, arm, here, parse_point
from control.errors import SettingsError
from tests.house.source import PACKAGES, ROOT, python_files


def names_used(text: str) -> list[str]:
    """The names in calls of `here(…)`; one that is no literal is told as such."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == "here":
                (name,) = node.args
                found.append(str(name.value) if isinstance(name, ast.Constant) else ast.unparse(name))
    return found


def test_each_point_of_the_table_stands_at_one_place() -> None:
    """And there is none that the table doesn't list."""
    used = [name for file in python_files(*PACKAGES) for name in names_used(file.read_text(encoding="utf-8"))]
    assert sorted(used) == sorted(POINTS)


def test_places_are_found_however_they_are_called() -> None:
    assert names_used("here('a')\ncrash.here('b')\nthere('c')\nhere(f'{x}')") == ["a", "b", "f'{x}'"]


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POINTS, "here", "in this test")
    monkeypatch.setattr(crash, "_armed", None)


@pytest.mark.usefixtures("points")
def test_a_point_is_written_as_it_is_read() -> None:
    for text in ("here", "here@eu/a/0", "here#3", "here@control#12"):
        assert parse_point(text).text == text
    assert parse_point("here@0/1#2") == Point("here", "0/1", 2)
    for wrong in ("", "there", "here#0", "here#", "here@", "here@a@b"):
        with pytest.raises(SettingsError):
            parse_point(wrong)


FIRES = """
import sys
from pathlib import Path
from control import crash
crash.POINTS["here"] = "in this test"
crash.arm(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
for turn in range(3):
    print(turn, flush=True)
    crash.here("elsewhere")
    crash.here("here")
"""


def life(folder: Path, armed: str, role: str = "sphere", path: str = "0/1") -> tuple[int, int]:
    """How a process ends that comes to the point three times, and how many turns it began."""
    done = subprocess.run(
        [sys.executable, "-c", FIRES, str(folder), role, path],
        env={**os.environ, VARIABLE: armed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, len(done.stdout.split())


def test_a_point_kills_whom_it_names_at_its_turn_and_only_the_first_life(tmp_path: Path) -> None:
    """Others pass, and so does the one that is started anew."""
    assert life(tmp_path, "here@0/0") == (0, 3)
    assert life(tmp_path, "here@control#2") == (0, 3)
    assert not (tmp_path / MARK).exists()
    assert life(tmp_path, "here@0/1#2") == (-signal.SIGKILL, 2)
    told = json.loads((tmp_path / MARK).read_text())
    assert (told["name"], told["who"]) == ("here", "0/1") and told["at"] > 1e9
    assert life(tmp_path, "here@0/1#2") == (0, 3)


def test_a_role_is_named_like_a_path(tmp_path: Path) -> None:
    assert life(tmp_path, "here@supervisor", role="supervisor") == (-signal.SIGKILL, 1)


@pytest.mark.usefixtures("points")
def test_two_that_come_to_a_point_at_once_are_one_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds the mark made by another goes on."""
    monkeypatch.setenv(VARIABLE, "here")
    arm(tmp_path, "control")
    (tmp_path / MARK).touch()
    here("here")


@pytest.mark.usefixtures("points")
def test_a_point_that_is_not_armed_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    arm(tmp_path, "control")
    here("here")
    assert not list(tmp_path.iterdir())
