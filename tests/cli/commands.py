"""Run the command as its users do, and see what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

Command = Callable[..., subprocess.CompletedProcess[str]]
"""Arguments, and the folder to be in."""

TINY = """
micro_batches = 3
batch_size = 2
max_steps = 4
log_interval = 1
warmup_steps = 2
eval_batches = 2
[model]
layers = 1
heads = 2
width = 16
context = 16
[data]
sequence_length = 16
"""


def environment() -> dict[str, str]:
    """The tests' own, with our packages in front; one thread, for the machine is shared."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def lightwatch(*arguments: str, folder: Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "lightwatch", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
    )


def start(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    """Start a command, its output to be read later."""
    return subprocess.Popen(
        [sys.executable, "-m", "lightwatch", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def tiny_project(folder: Path) -> list[str]:
    """A config and a text in `folder`; the flags that use them."""
    (folder / "tiny.toml").write_text(TINY)
    (folder / "text.txt").write_text("".join(f"line {n}: the quick brown fox, {n * n} times\n" for n in range(400)))
    return ["--config", "tiny.toml", "--data", "text.txt"]


def summary_of(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "summary.json").read_text())
    assert isinstance(found, dict)
    return found


def wait_until(holds: Callable[[], object], what: str, limit_s: float = 30.0) -> None:
    """Look until it holds; a test that waits for something names it."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"{what} took more than {limit_s} s"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether no process of this id runs any more (a zombie that nobody reaps does not run)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second: it went between open and read
        return True


def processes_of(folder: Path) -> list[int]:
    """The processes, but this one, whose command line names the folder: of a run there, all but its launcher."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(folder).encode() in words and state != "Z" and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def refused(result: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    """One clear sentence on stderr that holds these words, the code, and nothing on stdout."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("lightwatch: "), result.stderr
    for word in words:
        assert word in lines[0], result.stderr
