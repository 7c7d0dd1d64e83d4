"""The processes that a row measures: fresh ones, one thread each, ended whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .machine import ROOT

TICK_S = 0.01
PR_SET_PDEATHSIG = 1


class Cannot(Exception):
    """A row can't be measured: the sentence says why."""


def environment() -> dict[str, str]:
    """One thread a process, and this tree's packages before all others."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **threads, "PYTHONPATH": path}


def module(name: str, *arguments: object, python: str = sys.executable) -> list[str]:
    """The command that runs a module of this tree."""
    return [python, "-P", "-m", name, *map(str, arguments)]


@contextlib.contextmanager
def started(command: Sequence[str], log: Path, *, reports: bool = False) -> Iterator[subprocess.Popen[str]]:
    """The process in a session of its own; at the end all that is left of that session is killed.

    Its stdin is a pipe that ends with us, its stderr goes to `log`; stdout is a pipe too if it `reports`, else dropped.
    """
    with log.open("ab") as file:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if reports else subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
            cwd=log.parent,
            env=environment(),
            text=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def wait(processes: Sequence[subprocess.Popen[str]], log: Path, within_s: float) -> None:
    """Block until all have ended well. Raises Cannot, with the log's last line, if one does not."""
    deadline = time.monotonic() + within_s
    while any(process.poll() is None for process in processes):
        refuse_failed(processes, log)
        if time.monotonic() > deadline:
            raise Cannot(f"it had not ended after {within_s:g} s: {last_line(log)}")
        time.sleep(TICK_S)
    refuse_failed(processes, log)


def refuse_failed(processes: Sequence[subprocess.Popen[str]], log: Path) -> None:
    """Raise Cannot if one has ended with anything but 0."""
    for process in processes:
        if process.poll():
            raise Cannot(f"a process ended with code {process.returncode}: {last_line(log)}")


def last_line(log: Path) -> str:
    """The last line that says something."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")


def die_with_parent() -> None:
    """Have the kernel end this process with the one that started it; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
