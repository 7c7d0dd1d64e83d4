"""Runs on a tree as their users start them, and their processes by role."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightwatch.cli.folder import read_json
from lightwatch.cli.rows import read_rows
from scripts.benchmarks.lan import Machine
from spheres import pids
from tests.cli.commands import is_gone, lightwatch, processes_of, start, summary_of, tiny_project, wait_until


@contextmanager
def running(folder: Path, *more: str, steps: int = 1_000_000, tree: str = "2") -> Iterator[subprocess.Popen[str]]:
    """A run on a tree in `out` that has made its first steps; nothing of it is left afterwards."""
    with begun(folder, *more, steps=steps, tree=tree) as process:
        try:
            wait_until(lambda: process.poll() is not None or versions(folder) > 3, "the first steps", limit_s=90)
        except AssertionError as error:
            for log in sorted((folder / "out" / "logs").rglob("*.log")):
                error.add_note(f"{log.name}: {log.read_text()[-1500:]}")
            raise
        assert process.poll() is None, process.communicate()
        yield process


@contextmanager
def begun(folder: Path, *more: str, steps: int, tree: str = "2") -> Iterator[subprocess.Popen[str]]:
    """As soon as its launcher is started."""
    flags = [*tiny_project(folder), "--steps", str(steps), "--tree", tree, "--out", "out", *more]
    process = start("train", *flags, folder=folder)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
        wait_until(lambda: not processes_of(folder), "the end of all processes", limit_s=5)


def ended(process: subprocess.Popen[str], folder: Path, limit_s: float = 60) -> tuple[int, str, dict[str, Any]]:
    """Wait for the launcher: its code, all it said, its summary; no process, socket or half written file is left."""
    out, err = process.communicate(timeout=limit_s)
    assert processes_of(folder) == []
    left = [path.name for path in (folder / "out").rglob("*")]
    endings = (".new", "-wal", "-shm", ".sock", ".pid")
    assert not [name for name in left if name.endswith(endings) or name.startswith(".")]
    assert "Traceback" not in err
    return process.returncode, out + err, summary_of(folder / "out")


def digest_alone(folder: Path, steps: int) -> str:
    """What the same steps of the tiny project give in one process."""
    flags = [*tiny_project(folder), "--steps", str(steps), "--tree", "1", "--out", "out"]
    done = lightwatch("train", *flags, folder=folder, timeout_s=120)
    assert done.returncode == 0, done.stderr
    return str(summary_of(folder / "out")["digest"])


def versions(folder: Path) -> int:
    """How many versions there have been, v0 included."""
    return len(read_rows(folder / "out" / "metrics.jsonl"))


def pid_of(folder: Path, role: str, path: str = "1") -> int:
    """The living process of a role; worker and supervisor are those of the sphere at `path`. 0 if there is none."""
    if role == "control":
        found = (read_json(folder / "out" / "control.json") or {}).get("pid", 0)
    else:
        file = folder / "out" / ("template.pid" if role == "template" else f"spheres/{path}/{role}.pid")
        found = (pids.read(file) or (0, 0))[0]
    assert isinstance(found, int)
    return found if found and not is_gone(found) else 0


def up_on(folder: Path, machine: Machine, wait_for: int, steps: int) -> tuple[subprocess.Popen[bytes], str]:
    """Control of the tiny job on a machine, for a run that waits for so many spheres; and its join line."""
    tiny_project(folder)
    job = ["--config", folder / "tiny.toml", "--data", folder / "text.txt", "--steps", steps]
    log, command = folder / "up.log", [sys.executable, "-m", "lightwatch", "up"]
    up = machine.start([*command, *job, "--dir", "out", "--wait-for", wait_for], log)
    wait_until(lambda: up.poll() is not None or "lightwatch join '" in log.read_text(), "the join line")
    found = re.search(r"lightwatch join '([^']+)'", log.read_text())
    assert found, log.read_text()
    return up, found[1]
