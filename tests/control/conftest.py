"""A real control and as many fake spheres as a test wants; nothing of either is left after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from control.process import ControlProcess
from tests.control.fakes import FakeSphere, Spheres


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlProcess]:
    """A control of two spheres; gone when the test is."""
    with ControlProcess(tmp_path, run_id="run", tree="2", silence_s=2.0) as process:
        yield process
    assert process.poll() is not None
    assert not psutil.pid_exists(process.pid)


@pytest.fixture
def spheres(control: ControlProcess) -> Iterator[Spheres]:
    """Makes fake spheres at paths; closes their sockets afterwards."""
    made: list[FakeSphere] = []

    def make(*paths: str) -> list[FakeSphere]:
        made.extend(FakeSphere(control.address, path) for path in paths)
        return made[-len(paths) :]

    yield make
    for sphere in made:
        sphere.leave()
