"""Disks that fail under the checkpoints of a tree: training goes on, somebody is told, and saving resumes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from control.client import ControlClient
from control.record import read_record
from lightwatch.checkpoints import checkpoints_in, newest_whole
from tests.cli.commands import lightwatch, wait_until
from tests.cli.runs import pid_of, running, versions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

SETTINGS = """save_interval = 3
max_checkpoints = 2
"""
WIDE = "width = 160"
"""A state of some 4 MB."""


def mounted(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB of its own, for the checkpoints."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def on(disk: Path, folder: Path) -> Iterator[ControlClient]:
    """A run of two spheres that saves there every three versions."""
    from tests.cli import commands

    config = commands.TINY.replace("width = 16", WIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "TINY", f'checkpoint_dir = "{disk}"\n{SETTINGS}{config}')
        with running(folder) as process:
            with ControlClient(folder / "out") as client:
                yield client
            process.kill()


def newest(disk: Path) -> int:
    found = [each.manifest.version for each in checkpoints_in(disk) if each.manifest is not None]
    return max(found, default=-1)


def goes_on(folder: Path, more: int = 8) -> None:
    """So many versions come."""
    until = versions(folder) + more
    wait_until(lambda: versions(folder) >= until, f"{more} versions")


def saves_again(disk: Path, client: ControlClient) -> None:
    """A newer checkpoint is whole, and the alarm is over."""
    before = newest(disk)
    wait_until(lambda: newest(disk) > before, "another checkpoint")
    wait_until(lambda: not client.status().alarm, "the end of the alarm")
    found = newest_whole(disk)
    assert found.manifest is not None and not found.skipped


def alarms(client: ControlClient) -> str:
    wait_until(lambda: client.status().alarm, "the alarm")
    return client.status().alarm


def test_disks_that_fail_cost_saves_and_nothing_else(disk: Path, tmp_path: Path) -> None:
    """Too small, then large enough; read-only, then not; one that answers EIO to each fsync, then well; a slow one."""
    with on(disk, tmp_path) as client:
        assert "No space left" in alarms(client) and "[LW608]" in client.status().alarm
        goes_on(tmp_path)
        assert "No space left" in lightwatch("status", "out", folder=tmp_path).stdout
        wait_until(lambda: not [path for path in disk.rglob("*") if path.is_file()], "a disk with nothing left of them")
        assert newest(disk) == -1
        mounted("-o", "remount,size=64m", str(disk))
        saves_again(disk, client)

        mounted("-o", "remount,ro", str(disk))
        assert "Read-only file system" in alarms(client)
        goes_on(tmp_path)
        mounted("-o", "remount,rw", str(disk))
        saves_again(disk, client)

        if shutil.which("strace") is not None:
            with struck(pid_of(tmp_path, "worker", "0"), "fsync:error=EIO"):
                assert "Input/output error" in alarms(client)
                goes_on(tmp_path)
            saves_again(disk, client)
            before = newest(disk)
            with struck(pid_of(tmp_path, "worker", "1"), "fsync:delay_enter=2000000"):
                goes_on(tmp_path, 30)
                wait_until(lambda: newest(disk) > before + 3, "a checkpoint of a slow disk", 60)
                assert not client.status().alarm
            saves_again(disk, client)
    given_up = [json.loads(text) for text in events(tmp_path, "SaveGivenUp")]
    assert len(given_up) >= 2 and all(each["disk"] for each in given_up)
    assert not [each["text"] for each in given_up if "No such file" in each["text"]]
    assert read_record(tmp_path / "out" / "ledger.db").checkpoints


def events(folder: Path, kind: str) -> list[str]:
    import sqlite3

    with sqlite3.connect(folder / "out" / "ledger.db") as ledger:
        found = ledger.execute("SELECT json FROM events WHERE kind = ? ORDER BY n", (kind,)).fetchall()
    ledger.close()
    return [text for (text,) in found]


@contextmanager
def struck(pid: int, injected: str) -> Iterator[None]:
    """While this is open the kernel answers so to the process' calls."""
    words = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(pid), "-e", "trace=fsync", "-e", f"inject={injected}"]
    tracer = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    try:
        wait_until(
            lambda: tracer.poll() is not None or "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text(),
            "strace",
        )
        if tracer.poll() is not None:
            pytest.skip("strace may not look at other processes")
        yield
    finally:
        tracer.terminate()
        tracer.wait()
