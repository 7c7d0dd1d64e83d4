"""A machine that the others can't reach: it is told so and kept out, and costs the run nothing."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from scripts.benchmarks.lan import PORT, Machine
from tests.cli.commands import summary_of, wait_until
from tests.cli.runs import up_on

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("iptables") is None, reason="a port is closed by iptables, which is not here"),
]

COMMAND = [sys.executable, "-m", "lightwatch"]
FOR_EVER = 1_000_000
CLOSED = ["-i", PORT, "-p", "tcp", "--syn", "-j", "DROP"]


def join(folder: Path, machine: Machine, line: str, *flags: str) -> subprocess.Popen[bytes]:
    return machine.start([*COMMAND, "join", line, "--spheres", "2", *flags], folder / f"{machine.name}.log")


def set_firewall(machine: Machine, how: str) -> None:
    """-A: nobody can connect to this machine from outside any more; -D: as before."""
    words = ["ip", "netns", "exec", machine.space, "iptables", how, "INPUT", *CLOSED]
    subprocess.run(words, check=True, capture_output=True)


def generations(out: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(f"{(out / 'ledger.db').as_uri()}?mode=ro", uri=True)) as ledger:
        return ledger.execute("SELECT incarnation, number FROM generations ORDER BY 1, 2").fetchall()


def version(out: Path) -> int:
    try:
        return (out / "metrics.jsonl").read_text().count("\n")
    except FileNotFoundError:
        return 0


def told_why(folder: Path, machine: Machine, joined: subprocess.Popen[bytes]) -> str:
    """On the terminal of who can't be reached, whose command has ended: nobody is started anew."""
    assert joined.wait(30) == 1
    said = (folder / f"{machine.name}.log").read_text()
    for words in (f"sphere {machine.name}/", machine.address, "not reached by sphere", "--interface", "[LW417]"):
        assert words in said, said
    assert "again" not in said
    return said


def stopped(folder: Path, north: Machine, control: subprocess.Popen[bytes]) -> None:
    assert north.start([*COMMAND, "stop", "out"], folder / "stop.log").wait(30) == 0
    assert control.wait(60) == 0, (folder / "up.log").read_text()


def test_a_newcomer_that_nobody_reaches_is_kept_out_and_gets_in_once_it_is_mended(
    tmp_path: Path, machines: tuple[Machine, Machine]
) -> None:
    """Its firewall lets nothing in: no generation is lost to it, versions are made meanwhile, and the sentence is on
    its own terminal and in the run's story."""
    (north, south), out = machines, tmp_path / "north" / "out"
    control, line = up_on(tmp_path, north, 2, FOR_EVER)
    at_north = join(tmp_path, north, line)
    wait_until(lambda: version(out) > 3, "the first versions", 60)
    set_firewall(south, "-A")
    before, called = version(out), generations(out)
    told_why(tmp_path, south, join(tmp_path, south, line))
    assert version(out) > before + 3 and generations(out) == called == [(1, 1)]
    assert "refused: sphere south/0" in (out / "logs" / "control.log").read_text() + (tmp_path / "up.log").read_text()

    set_firewall(south, "-D")
    at_south = join(tmp_path, south, line)
    wait_until(lambda: len(generations(out)) > 1, "a generation with it", 30)
    now = version(out)
    wait_until(lambda: version(out) > now + 3, "versions made together", 30)
    stopped(tmp_path, north, control)
    assert [each.wait(20) for each in (at_north, at_south)] == [0, 0]
    assert summary_of(out)["status"] == "stopped"


def test_before_the_first_generation_a_machine_with_the_wrong_interface_is_named(
    tmp_path: Path, machines: tuple[Machine, Machine]
) -> None:
    """And the run begins once it has come with the right one."""
    (north, south), out = machines, tmp_path / "north" / "out"
    for words in (
        ["link", "add", "nowhere", "type", "veth", "peer", "name", "nobody"],
        ["address", "add", "10.9.0.2/24", "dev", "nowhere"],
        ["link", "set", "nowhere", "up"],
        ["link", "set", "nobody", "up"],
    ):
        subprocess.run(["ip", "-n", south.space, *words], check=True, capture_output=True)
    control, line = up_on(tmp_path, north, 4, FOR_EVER)
    wrong = join(tmp_path, south, line, "--interface", "nowhere")
    at_north = join(tmp_path, north, line)
    assert wrong.wait(60) == 1
    said = (tmp_path / "south.log").read_text()
    assert "10.9.0.2" in said and "--interface" in said and "[LW417]" in said, said
    assert not generations(out) and control.poll() is None and at_north.poll() is None

    right = join(tmp_path, south, line)
    wait_until(lambda: version(out) > 3, "the first versions", 60)
    assert generations(out) == [(1, 1)]
    stopped(tmp_path, north, control)
    assert [each.wait(20) for each in (at_north, right)] == [0, 0]
