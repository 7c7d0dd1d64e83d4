"""What the tests of commands share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightwatch.cli.main import main
from scripts.benchmarks.lan import Machine, lan
from scripts.benchmarks.processes import Cannot
from tests.cli.commands import Command, processes_of
from tests.cli.house import House


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in this process, which has loaded torch already; otherwise like `lightwatch`."""

    def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(folder)
        code = main(list(arguments))
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return run


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    found = House(tmp_path)
    yield found
    found.close()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two, each a network namespace of its own."""
    try:
        with lan(tmp_path, 2) as (north, south):
            yield north, south
    except Cannot as error:
        pytest.skip(str(error))
    assert processes_of(tmp_path) == []
