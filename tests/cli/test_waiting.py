"""An order that is given long before it can be obeyed: who gave it is told what it waits for, and that it stands."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.client import ControlClient
from control.process import ControlProcess
from tests.cli.commands import start
from tests.control.fakes import FakeSphere, begun

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(60)]


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlProcess]:
    """Of two spheres, of which none has come."""
    with ControlProcess(tmp_path, run_id="run", tree="2") as process:
        yield process


def test_an_order_before_the_first_step_says_what_it_waits_for_and_stands_after_ctrl_c(
    tmp_path: Path, control: ControlProcess
) -> None:
    """One sentence, on stderr; at Ctrl-C the number, which is the one that control knows."""
    with start("pause", "--control", control.address, folder=tmp_path) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert told == "lightwatch: pause is order 1; waiting: the run has not begun, and 0 of 2 spheres are here\n"
    assert (process.returncode, out) == (130, "")
    assert err == "lightwatch: interrupted; pause is order 1 and stands: the run obeys it all the same\n"
    with ControlClient(control.address) as client:
        assert client.status().order == 1


def test_what_scripts_read_is_the_result_alone(tmp_path: Path, control: ControlProcess) -> None:
    """With --json stdout has its one line, once the order is in force: at the first step. Words are on stderr."""
    made: list[FakeSphere] = []

    def make(*paths: str) -> list[FakeSphere]:
        made.extend(FakeSphere(control.address, path) for path in paths)
        return made

    try:
        with start("lr", "--rate", "1e-4", "--json", "--control", control.address, folder=tmp_path) as process:
            assert process.stderr is not None
            told = process.stderr.readline()
            begun(make, "0", "1")
            out, err = process.communicate(timeout=20)
    finally:
        for sphere in made:
            sphere.leave()
    assert told == "lightwatch: lr is order 1; waiting: the run has not begun, and 0 of 2 spheres are here\n"
    assert err == "learning rate 0.0001 in force at version 0\n"
    assert process.returncode == 0 and json.loads(out) == {"order": "lr", "version": 0}
