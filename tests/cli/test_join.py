"""`lightwatch join` says on its own terminal what becomes of its spheres."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lightwatch.cli.crew import Crew, Sphere
from lightwatch.cli.folder import RunFolder
from lightwatch.cli.join import Machine
from lightwatch.cli.terminal import Terminal


def spheres_of(crew: Crew, *paths: str) -> dict[str, Sphere]:
    """Their processes are of no account."""
    spheres = {path: Sphere(SimpleNamespace(code=1)) for path in paths}  # type: ignore[arg-type]
    crew._spheres = spheres
    return spheres


def test_each_sphere_that_ends_for_good_has_its_reason_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it happens, while others here may go on; also of the second, and nothing is said again at the end."""
    machine = Machine(RunFolder(tmp_path, "cafe"), Terminal())
    spheres = spheres_of(machine._crew, "lab/0", "lab/1")
    why = "sphere lab/0 was given up: it ended 5 times in a row [LW413]"
    machine._crew._heed("lab/0", spheres["lab/0"], {"gave_up": "lab/0", "why": why})
    machine._tell_troubles()
    assert capsys.readouterr().err == f"lightwatch: {why}\n"
    (tmp_path / "logs" / "lab").mkdir(parents=True)
    (tmp_path / "logs" / "lab" / "1.log").write_text("sphere lab/1: its threads is '2', the others' is '1' [LW403]\n")
    item = {"exited": "lab/1", "pid": 7, "code": 2, "signal": None, "final": True}
    machine._crew._heed("lab/1", spheres["lab/1"], item)
    machine._tell_troubles()
    said = capsys.readouterr().err
    assert said.startswith("lightwatch: sphere lab/1 (pid 7) ended with code 2: ") and "[LW403]" in said
    machine._tell_troubles()
    assert machine._code(0, []) == 1 and capsys.readouterr().err == ""
    assert machine._crew.amiss == why


def test_a_failure_of_which_nothing_is_known_here_points_to_control(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(RunFolder(tmp_path, "cafe"), Terminal())
    spheres_of(machine._crew, "lab/0")
    assert machine._code(0, []) == 1
    assert "the run failed; control says why [LW410]" in capsys.readouterr().err
