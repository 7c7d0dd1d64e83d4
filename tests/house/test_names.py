"""What `import lightwatch` costs, and what it offers."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lightwatch
from lightwatch import _beside
from tests.house.source import ROOT

HEAVY = ["torch", "numpy", "zmq", "msgspec", "rich", "control", "spheres"]


def heavy_after(code: str, *arguments: str) -> set[str]:
    """Which heavy modules a fresh process has loaded after the code; its arguments stand in sys.argv."""
    tail = f"\nimport json, sys\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    command = [sys.executable, "-c", code + tail, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def run_command(*arguments: str) -> str:
    lines = ["import sys", "from lightwatch.cli.main import main", f"sys.argv[1:] = {list(arguments)!r}"]
    return "\n".join([*lines, "try:", "    main()", "except SystemExit:", "    pass"])


def test_importing_lightwatch_loads_nothing_heavy() -> None:
    """Not torch, not sockets: the names load when they are used."""
    assert heavy_after("import lightwatch") == set()


def test_a_settings_class_can_be_had_without_torch() -> None:
    """The launcher judges settings, and it has no torch."""
    assert heavy_after("import lightwatch; lightwatch.TrainingConfig()") == set()


def test_control_never_loads_torch() -> None:
    """Nor what the spheres need: control starts in a moment."""
    assert heavy_after("import control") == {"control"}
    loaded = heavy_after("import control.server, control.client, control.ledger")
    assert loaded == {"control", "zmq", "msgspec"}


def test_the_client_loads_no_torch() -> None:
    """Who watches a run from afar needs no tensors."""
    assert "torch" not in heavy_after("import lightwatch; lightwatch.ControlClient, lightwatch.ControlProcess")


def test_the_supervisor_loads_no_torch() -> None:
    """What watches over a worker is small and up in a moment; nor does a template before it listens."""
    assert heavy_after("import spheres") == {"spheres"}
    loaded = heavy_after("import spheres.__main__, spheres.template, lightwatch.config")
    assert loaded == {"spheres", "control"}  # of control only its crash points, which are a page of stdlib


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["status", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """Help is read more often than anything else is run."""
    assert heavy_after(run_command(*arguments)) == set()


def test_status_of_nothing_loads_no_torch(tmp_path: Path) -> None:
    """Asking control takes a socket; a folder without a run not even that."""
    assert "torch" not in heavy_after(run_command("status", str(tmp_path)))


def test_help_comes_in_under_a_third_of_a_second() -> None:
    """Best of five, so that a busy machine is not what is measured."""
    durations = []
    for _ in range(5):
        begin = time.monotonic()
        subprocess.run([sys.executable, "-m", "lightwatch", "--help"], cwd=ROOT, check=True, capture_output=True)
        durations.append(time.monotonic() - begin)
    assert min(durations) < 0.3


def test_every_name_that_is_promised_is_there() -> None:
    """`from lightwatch import *` works, and dir() says what there is."""
    for name in lightwatch.__all__:
        assert getattr(lightwatch, name) is not None
        assert name in dir(lightwatch)
    for name in ("Trainer", "TrainingConfig", "TrainingState", "TrainingStatus", "GPT", "ControlClient"):
        assert inspect.isclass(getattr(lightwatch, name))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """Lazy names must not turn a slip of the pen into something else."""
    with pytest.raises(AttributeError, match="Triner"):
        lightwatch.Triner  # noqa: B018


def test_our_own_packages_pass_the_guard() -> None:
    """And the guard knows how ours begin."""
    _beside.check()
    for name, opening in _beside.OPENINGS.items():
        assert (ROOT / name / "__init__.py").read_text(encoding="utf-8").startswith(opening)


def test_the_guard_judges_a_package_that_is_loaded_already(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A script may have imported another `control` before it asks for ours."""
    other = tmp_path / "control" / "__init__.py"
    other.parent.mkdir()
    other.write_text("x = 1\n")
    module = type(sys)("control")
    module.__file__ = str(other)
    monkeypatch.setitem(sys.modules, "control", module)
    with pytest.raises(_beside.ForeignPackageError, match="environment of its own") as caught:
        _beside.check()
    assert str(other) in str(caught.value)
    assert isinstance(caught.value, ImportError)
