"""One run on several machines: network namespaces with names, addresses, keys and folders of their own."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.benchmarks.lan import Machine, lan
from scripts.benchmarks.processes import Cannot
from tests.cli.commands import lightwatch, processes_of, summary_of, tiny_project, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

COMMAND = [sys.executable, "-m", "lightwatch"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 2]


@dataclass(frozen=True)
class Site:
    """Two machines, on the first of which `lightwatch up` waits for spheres. line: what it has printed."""

    folder: Path
    machines: tuple[Machine, Machine]
    up: subprocess.Popen[bytes]
    line: str

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def digest(self) -> str:
        """Of the run, once it is over."""
        assert self.up.wait(60) == 0, self.log("up").read_text()
        return str(summary_of(self.folder / "north" / "out")["digest"])

    def members(self) -> set[str]:
        """Who trained at the end."""
        uri = (self.folder / "north" / "out" / "ledger.db").as_uri()
        with closing(sqlite3.connect(f"{uri}?mode=ro", uri=True)) as ledger:
            newest = "SELECT members FROM generations ORDER BY incarnation DESC, number DESC LIMIT 1"
            return set(json.loads(ledger.execute(newest).fetchone()[0]))


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    try:
        with lan(tmp_path, 2) as (north, south):
            yield north, south
    except Cannot as error:
        pytest.skip(str(error))
    assert processes_of(tmp_path) == []


def site(folder: Path, machines: tuple[Machine, Machine], wait_for: int) -> Site:
    """With a run that has begun to wait."""
    tiny_project(folder)
    job = ["--config", folder / "tiny.toml", "--data", folder / "text.txt"]
    log = folder / "up.log"
    up = machines[0].start([*COMMAND, "up", *job, "--dir", "out", "--wait-for", wait_for], log)
    wait_until(lambda: up.poll() is not None or "lightwatch join '" in log.read_text(), "the join line")
    found = re.search(r"lightwatch join '([^']+)'", log.read_text())
    assert found, log.read_text()
    return Site(folder, machines, up, found[1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest that one process gives."""
    folder = tmp_path_factory.mktemp("alone")
    done = lightwatch("train", *tiny_project(folder), "--tree", "1", "--out", "out", folder=folder)
    assert done.returncode == 0, done.stderr
    return str(summary_of(folder / "out")["digest"])


def test_two_machines_that_join_by_one_line_learn_what_one_process_does(
    tmp_path: Path, machines: tuple[Machine, Machine], alone: str
) -> None:
    """Places are the machines' names; both are let go when the run is over."""
    run = site(tmp_path, machines, 3)
    joined = [
        each.start([*COMMAND, "join", run.line, "--spheres", count], run.log(each.name))
        for count, each in enumerate(machines, 1)
    ]
    assert run.digest() == alone
    assert [each.wait(20) for each in joined] == [0, 0]
    assert run.members() == {"north/0", "south/0", "south/1"}


def test_one_torchrun_over_two_machines_learns_what_one_process_does(
    tmp_path: Path, machines: tuple[Machine, Machine], alone: str
) -> None:
    """Its processes are supervisors, which enrol by the line themselves; torchrun restarts none and ends well."""
    run = site(tmp_path, machines, 4)
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "north:29500", "--rdzv-id", "test"]
    agents = [
        each.start([*TORCHRUN, *meeting, "-m", "spheres", "--join", run.line], run.log(each.name)) for each in machines
    ]
    assert run.digest() == alone
    assert [each.wait(20) for each in agents] == [0, 0]
    assert run.members() == {"node-0/0", "node-0/1", "node-1/0", "node-1/1"}
    assert not any(re.search("restart|FAILED|Traceback", run.log(each.name).read_text()) for each in machines)
