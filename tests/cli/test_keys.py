"""`lightwatch keys`, and a run that needs them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from control.client import ControlClient
from control.enrol import enrol
from control.keyfile import read_key
from tests.cli.commands import Command, environment, processes_of, refused, summary_of, tiny_project, wait_until
from tests.cli.runs import ended, running, versions


def test_keys_are_drawn_listed_and_revoked(command: Command, tmp_path: Path) -> None:
    """The first one gives the folder its keys; the file is its owner's alone, and its name is the machine's."""
    made = command("keys", "new", "out", "--name", "lab-3", folder=tmp_path)
    assert made.returncode == 0 and "lab-3.key" in made.stdout
    file = tmp_path / "lab-3.key"
    assert file.stat().st_mode & 0o777 == 0o600 and read_key(file).role == "sphere"
    assert command("keys", "new", "out", "--name", "ann", "--role", "client", folder=tmp_path).returncode == 0
    assert command("keys", "revoke", "out", "lab-3", folder=tmp_path).returncode == 0
    lines = command("keys", "list", "out", folder=tmp_path).stdout.splitlines()
    states = {line.split()[0]: (line.split()[1], line.endswith("revoked")) for line in lines}
    assert states == {
        "ann": ("client", False),
        "lab-3": ("sphere", True),
        "local-clients": ("client", False),
        "local-spheres": ("sphere", False),
    }
    assert read_key(file).secret not in "".join(lines)


def test_mistakes_are_one_sentence(command: Command, tmp_path: Path) -> None:
    """Each with what to do."""
    (tmp_path / "bare").mkdir()
    refused(command("keys", "list", "bare", folder=tmp_path), "has no keys", "[LW541]")
    refused(command("keys", "list", "nowhere", folder=tmp_path), "no such folder", "[LW603]")
    refused(command("keys", "new", "out", folder=tmp_path), "--name", "[LW001]")
    refused(command("keys", "new", "out", "--name", "a/b", folder=tmp_path), "a machine's name", "[LW541]")
    command("keys", "new", "out", "--name", "lab", folder=tmp_path)
    refused(command("keys", "new", "out", "--name", "lab", folder=tmp_path), "lab.key", "--out", "[LW541]")
    again = command("keys", "new", "out", "--name", "lab", "--out", "b.key", folder=tmp_path)
    refused(again, "a machine 'lab' already", "[LW541]")
    refused(command("keys", "revoke", "out", "eve", folder=tmp_path), "no machine 'eve'", "lab", "[LW541]")
    refused(command("keys", "token", "out", folder=tmp_path), "has not been started yet", "[LW505]")
    refused(command("status", "--control", "tcp://127.0.0.1:9", "--key", "none.key", folder=tmp_path), "[LW541]")


def test_a_run_without_keys_that_goes_on_is_given_none(command: Command, tmp_path: Path) -> None:
    """Its control, should it start anew, would take none of its spheres."""
    (tmp_path / "control.json").write_text(json.dumps({"address": "tcp://127.0.0.1:9", "run_id": "r"}))
    refused(command("keys", "new", str(tmp_path), "--name", "lab", folder=tmp_path), "goes on without keys", "[LW541]")
    assert not (tmp_path / "keys").exists()


def test_nothing_leaves_the_machine_without_keys(command: Command, tmp_path: Path) -> None:
    """The sentence says how to get some; nothing was begun."""
    flags = [*tiny_project(tmp_path), "--tree", "2", "--out", "out", "--listen", "tcp://0.0.0.0:*"]
    refused(command("train", *flags, folder=tmp_path), "lightwatch keys new", "[LW007]")
    assert not (tmp_path / "out").exists()


@pytest.mark.cluster
@pytest.mark.timeout(120)
def test_a_run_with_keys_takes_a_machine_in_by_its_join_line_and_goes_on_when_it_is_revoked(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It listens on all addresses; the newcomer's supervisor and sphere know nothing but the line. Revoked, it is gone
    within 2 s, ends by itself with the reason, and the others go on."""
    command("keys", "new", "out", "--name", "ann", "--role", "client", folder=tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with running(tmp_path, "--listen", "tcp://0.0.0.0:*") as process:
        address = json.loads((tmp_path / "out" / "control.json").read_text())["address"].replace("0.0.0.0", "127.0.0.1")
        line = command("keys", "token", "out", "--control", address, folder=tmp_path).stdout.strip()
        key = enrol(line, name="lab-3")
        newcomer = _supervised(tmp_path, address, key)
        try:
            with ControlClient(address, key=tmp_path / "ann.key") as client:
                wait_until(lambda: _working(client) == {"0", "1", "lab/0"}, "the newcomer at work", limit_s=60)
                began = time.monotonic()
                assert command("keys", "revoke", "out", "lab-3", folder=tmp_path).returncode == 0
                wait_until(lambda: "lab/0" not in _working(client), "its being thrown out", limit_s=10)
                assert time.monotonic() - began < 4.0  # 2 s of them at most are control's
                before = versions(tmp_path)
                wait_until(lambda: versions(tmp_path) > before + 3, "more versions", limit_s=20)
            assert newcomer.wait(30) == 1
            said = (tmp_path / "out" / "logs" / "lab" / "0.log").read_text()
            supervisor = (tmp_path / "supervisor.log").read_text()
            assert "whose key was revoked [LW542]" in said and "is not allowed there" in said, supervisor
        finally:
            newcomer.kill()
            newcomer.wait()
        assert command("stop", "out", folder=tmp_path).returncode == 0
        code, told, summary = ended(process, tmp_path)
        assert (code, summary["status"]) == (0, "stopped"), told
    assert summary_of(tmp_path / "out")["status"] == "stopped" and processes_of(tmp_path) == []


def _supervised(folder: Path, address: str, key: Path) -> subprocess.Popen[bytes]:
    words = ["--dir", str(folder / "out"), "--control", address, "--path", "lab/0", "--key", str(key), "--no-lifeline"]
    with open(folder / "supervisor.log", "wb") as said:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "spheres", *words],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )


def _working(client: ControlClient) -> set[str]:
    return {sphere.path for sphere in client.status().spheres if sphere.version > 0 and sphere.phase != "gone"}
