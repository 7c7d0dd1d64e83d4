"""One run on several machines: network namespaces with names, addresses, keys and folders of their own."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightwatch.cli.chaos_measure import work
from lightwatch.cli.chaos_records import read_made
from lightwatch.cli.folder import RunFolder
from scripts.benchmarks.lan import Machine
from tests.cli.commands import lightwatch, summary_of, tiny_project, wait_until
from tests.cli.runs import digest_alone, up_on

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

COMMAND = [sys.executable, "-m", "lightwatch"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2]
OVER_BOTH = ["--nnodes", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", "north:29500", "--rdzv-id", "test"]
ON_EACH = ["--nnodes", 1, "--standalone", "--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1"]
LONG = 400
"""Steps; enough for somebody to leave meanwhile."""


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
        return str(summary_of(self.out)["digest"])

    @property
    def out(self) -> Path:
        return self.folder / "north" / "out"

    def versions(self) -> int:
        file = self.out / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def recomputed(self) -> int:
        return work(read_made(RunFolder(self.out, "")), 3).recomputed_micro_batches

    def torchruns(self, *words: object) -> list[subprocess.Popen[bytes]]:
        """One on each machine, of two spheres each."""
        command = [*TORCHRUN, *words, "-m", "spheres", "--join", self.line]
        return [each.start(command, self.log(each.name)) for each in self.machines]

    def members(self) -> set[str]:
        """Who trained at the end."""
        uri = (self.out / "ledger.db").as_uri()
        with closing(sqlite3.connect(f"{uri}?mode=ro", uri=True)) as ledger:
            newest = "SELECT members FROM generations ORDER BY incarnation DESC, number DESC LIMIT 1"
            return set(json.loads(ledger.execute(newest).fetchone()[0]))


def site(folder: Path, machines: tuple[Machine, Machine], wait_for: int, steps: int = 4) -> Site:
    """With a run that has begun to wait."""
    up, line = up_on(folder, machines[0], wait_for, steps)
    return Site(folder, machines, up, line)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest that one process gives."""
    folder = tmp_path_factory.mktemp("alone")
    done = lightwatch("train", *tiny_project(folder), "--tree", "1", "--out", "out", folder=folder)
    assert done.returncode == 0, done.stderr
    return str(summary_of(folder / "out")["digest"])


@pytest.fixture(scope="module")
def alone_for_long(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest that one process gives after LONG steps."""
    return digest_alone(tmp_path_factory.mktemp("alone"), LONG)


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
    agents = run.torchruns(*OVER_BOTH)
    assert run.digest() == alone
    assert [each.wait(20) for each in agents] == [0, 0]
    assert run.members() == {"node-0/0", "node-0/1", "node-1/0", "node-1/1"}
    assert not any(re.search("restart|FAILED|Traceback", run.log(each.name).read_text()) for each in machines)


@pytest.mark.parametrize(
    ("words", "number"), [(OVER_BOTH, signal.SIGTERM), (ON_EACH, signal.SIGUSR1)], ids=["over both", "on each"]
)
def test_a_torchrun_that_is_asked_to_leave_takes_its_spheres_out_in_good_order(
    words: list[object], number: signal.Signals, tmp_path: Path, machines: tuple[Machine, Machine], alone_for_long: str
) -> None:
    """It hands its signal on to the group of each supervisor; the other machine goes on, and nothing is computed twice.
    torchrun's own code is 1, whatever those that it started end with."""
    run = site(tmp_path, machines, 4, LONG)
    staying, leaving = run.torchruns(*words)
    wait_until(lambda: run.versions() > 20 or run.up.poll() is not None, "the first steps", limit_s=60)
    leaving.send_signal(number)
    assert leaving.wait(30) == 1
    assert run.up.poll() is None and staying.poll() is None, "the others go on"
    said = run.log("south").read_text()
    assert said.count("ended with code 0") == 2 and "SIGKILL" not in said, said
    assert run.digest() == alone_for_long
    assert {path.rpartition("/")[0] for path in run.members()} == {"node-0" if words is OVER_BOTH else "north"}
    assert run.recomputed() == 0
    if words is OVER_BOTH:  # it still waits for the other one, for 5 minutes
        staying.kill()
    assert words is OVER_BOTH or staying.wait(20) == 0, run.log("north").read_text()
    staying.wait(20)
