"""`lightwatch doctor` on two hosts, network namespaces on this machine: each fault is made, and must be named."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from control.keys import Keys
from control.tokens import Tokens
from lightwatch.cli.folder import read_json
from scripts.benchmarks.hosts import LINK, Host, refuse_impossible, two_hosts
from scripts.benchmarks.processes import Cannot, started
from tests.cli.commands import Command, environment, refused, tiny_project, wait_until

WELL = {"control", "versions", "clock", "interface", "disk", "fingerprint", "data", "ports", "link"}
ANOTHER_TIME_AND_VERSION = """
import sys, time
from importlib import metadata
clock, version = time.time, metadata.version
time.time = lambda: clock() + 3600
metadata.version = lambda name: "9.9.9" if name == "lightwatch" else version(name)
from lightwatch.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
DOCTOR_S = 70
"""For machines that are busy; what it takes is said by the doctors' own limits."""


def test_what_is_no_join_line_is_refused(command: Command, tmp_path: Path) -> None:
    refused(command("doctor", "tcp://10.0.0.1:5555", folder=tmp_path), "no join line", "[LW545]")
    refused(command("doctor", "--wait", "-1", "x", folder=tmp_path), "--wait", "[LW002]")


@dataclass
class Hosts:
    """Two of them; control is on the first, and no sphere has come. line: the join line."""

    folder: Path
    hosts: tuple[Host, Host]
    line: str
    opened: ExitStack = field(repr=False)

    def doctor(self, host: int, *flags: str, stub: str = "", **variables: str) -> subprocess.Popen[str]:
        """Started there, as a machine of its own."""
        words = ["-c", stub] if stub else ["-m", "lightwatch"]
        own = {**environment(), "XDG_CONFIG_HOME": str(self.folder / f"config-{host}"), **variables}
        return subprocess.Popen(
            self.hosts[host].command([sys.executable, *words, "doctor", self.line, "--json", "--wait", "20", *flags]),
            cwd=self.folder,
            env=own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, host: int, *words: str) -> None:
        subprocess.run(self.hosts[host].command(words), check=True, capture_output=True, text=True)

    def used(self) -> list[dict[str, str]]:
        return [token.used for token in Tokens(Keys(self.folder / "out")).all().values()]


@contextmanager
def two_hosts_with_control(folder: Path, steps: int = 4) -> Iterator[Hosts]:
    """Skips the test where there can be no such hosts."""
    flags = tiny_project(folder)
    try:
        refuse_impossible()
    except Cannot as why:
        pytest.skip(str(why))
    with two_hosts() as hosts, ExitStack() as stack:
        words = [sys.executable, "-m", "lightwatch", "up", *flags, "--steps", str(steps), "--dir", "out"]
        command = hosts[0].command([*words, "--listen", f"tcp://{hosts[0].address}:*", "--json"])
        with started(command, folder / "up.log"):
            wait_until((folder / "out" / "control.json").exists, "control")
            address = str((read_json(folder / "out" / "control.json") or {})["address"])
            asked = [
                sys.executable,
                "-m",
                "lightwatch",
                "keys",
                "token",
                "out",
                "--machines",
                "2",
                "--control",
                address,
            ]
            done = subprocess.run(asked, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
            found = re.search(r"tcp://\S+/\S+/\S+/[\w-]+", done.stdout)
            assert found, done.stdout
            yield Hosts(folder, hosts, found[0], stack)


def told(*doctors: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What each has found; its exit code says whether something is wrong."""
    found = []
    for doctor in doctors:
        out, err = doctor.communicate(timeout=DOCTOR_S)
        assert out.count("\n") == 1, err
        found.append(json.loads(out))
        assert doctor.returncode == (0 if found[-1]["ok"] else 1), err
    return found


def faults(found: dict[str, Any]) -> dict[str, str]:
    """Check -> its sentence."""
    return {each["check"]: each["text"] for each in found["checks"] if each["verdict"] == "fault"}


def close_ports(pair: Hosts) -> None:
    """Of the first host, to whoever connects from outside; control's is below them. Skips the test if it can't."""
    if shutil.which("iptables") is None:
        pytest.skip("a port is closed by iptables, which is not here")
    rule = ["-p", "tcp", "--syn", "--dport", "32768:65535", "-j", "DROP"]
    pair.run(0, "iptables", "-A", "INPUT", "-i", LINK, *rule)


def another_network(pair: Hosts) -> str:
    """An interface of the second host that leads to nobody."""
    pair.run(1, "ip", "link", "add", "nowhere", "type", "veth", "peer", "name", "nobody")
    pair.run(1, "ip", "address", "add", "10.99.0.2/24", "dev", "nowhere")
    for name in ("nowhere", "nobody"):
        pair.run(1, "ip", "link", "set", name, "up")
    return "nowhere"


def names(found: dict[str, Any], verdicts: Sequence[str] = ("ok",)) -> set[str]:
    return {each["check"] for each in found["checks"] if each["verdict"] in verdicts}


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_each_of_eight_faults_between_two_hosts_is_named(tmp_path: Path) -> None:
    """And none where there is none. Nobody is enrolled by it, and nothing is left behind."""
    with two_hosts_with_control(tmp_path) as pair:
        for found in told(pair.doctor(0), pair.doctor(1)):
            assert not faults(found) and names(found) == WELL, found

        (tmp_path / "other.txt").write_text("what is trained elsewhere\n" * 400)
        small = tmp_path / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(small)], check=True)
        pair.opened.callback(subprocess.run, ["umount", str(small)], check=True)
        flags = ["--data", "other.txt", "--dir", str(small), "--interface", another_network(pair)]
        odd = pair.doctor(1, *flags, stub=ANOTHER_TIME_AND_VERSION, ATEN_CPU_CAPABILITY="default")
        first, second = told(pair.doctor(0), odd)
        assert set(faults(second)) == {"versions", "clock", "interface", "disk", "fingerprint", "data"}
        for check, word in {
            "versions": "pip install lightwatch==0.1.0",
            "clock": "3,600.0 s ahead of control's",
            "interface": f"10.77.0.2 ({LINK}) can: give --interface {LINK}",
            "disk": "0.5 MB free",
            "fingerprint": "cpu_capability is 'DEFAULT' here",
            "data": "other.txt has another hash",
        }.items():
            assert word in faults(second)[check]
        assert set(faults(first)) == {"fingerprint", "interface"}  # what is the other's alone is not told here

        pair.run(1, "ip", "route", "add", "unreachable", f"{pair.hosts[0].address}/32")
        (found,) = told(pair.doctor(1))
        assert "firewall" in faults(found)["control"] and "control" not in names(found)
        pair.run(1, "ip", "route", "delete", "unreachable", f"{pair.hosts[0].address}/32")
        assert pair.used() and not any(pair.used())
        assert not (tmp_path / "runs").exists() and not os.listdir(small)

        close_ports(pair)
        first, second = told(pair.doctor(0), pair.doctor(1))
        assert "one direction" in faults(second)["ports"] and "this machine can't reach" in faults(second)["ports"]
        assert "one direction" in faults(first)["ports"] and "can't reach this machine at" in faults(first)["ports"]
        assert set(faults(first)) == set(faults(second)) == {"ports"}


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_a_machine_is_held_against_the_spheres_of_a_run_that_goes_on(tmp_path: Path) -> None:
    """Also where nobody else looks: its fingerprint against the first sphere's, the ways to where each is reached. A
    machine whose spheres take part computes nothing anew."""
    with two_hosts_with_control(tmp_path, steps=10**6) as pair:
        words = [sys.executable, "-m", "lightwatch", "join", "--spheres", "1", "--dir", "joined", pair.line]
        own = ["env", f"XDG_CONFIG_HOME={tmp_path / 'config-0'}"]
        pair.opened.enter_context(started(pair.hosts[0].command([*own, *words]), tmp_path / "join.log"))
        wait_until(lambda: made(tmp_path / "out") > 1, "the first steps", limit_s=60)

        first, second = told(pair.doctor(0), pair.doctor(1))
        assert not faults(first) and not faults(second)
        assert any("as those of the run" in each["text"] for each in second["checks"])
        assert any("not taken anew" in each["text"] for each in first["checks"])
        before = made(tmp_path / "out")
        wait_until(lambda: made(tmp_path / "out") > before, "more steps")

        flags = ["--interface", another_network(pair), "--wait", "0"]
        (found,) = told(pair.doctor(1, *flags))
        assert "give its name with --interface" in faults(found)["interface"]


def made(out: Path) -> int:
    """The newest version."""
    try:
        return (out / "metrics.jsonl").read_text().count("\n")
    except FileNotFoundError:
        return 0
