"""The launcher's children: control, template, a supervisor per sphere; each in a session of its own with a lifeline.

Laws
  1. A child's stdin is a pipe that only the launcher holds: the launcher's death, by SIGKILL too, is its end of file.
  2. Each child is the leader of its session, so that `end` reaches whatever it has started.
  3. A terminal's Ctrl-C reaches the launcher alone, which makes an order of it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import code_of, coded

_RECORD = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:,]+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")

SAID_MOST = 300
"""Letters of a log's last line that go into a sentence."""

PACKAGES = Path(__file__).resolve().parents[2]
"""The folder that holds `lightwatch`, and so `control` and `spheres`."""


@dataclass
class Child:
    """A process of its own session; what it says on stderr goes to `log`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None, "only a supervisor's stdout is a pipe"
        return self.process.stdout

    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    def is_stopped(self) -> bool:
        """Whether a SIGSTOP holds it."""
        return is_stopped(self.pid)

    def ask_to_stop(self) -> None:
        """SIGTERM: for control, a stop order."""
        if self.code() is None:
            self.process.terminate()

    def kill(self) -> None:
        """Kill what is left of its session, at once."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a session of zombies
            pass

    def end(self) -> None:
        """Kill what is left of its session, and reap it."""
        self.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def start_child(name: str, arguments: list[str], log: Path, threads: int, *, reports: bool = False) -> Child:
    """Start `python -m NAME ARGUMENTS`. With `reports` its stdout is a pipe to read, else it goes to the log too."""
    command = [sys.executable, "-P", "-m", name, *arguments]
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if reports else file,
            stderr=file,
            start_new_session=True,
            env=environment(threads),
            bufsize=0,
        )
    if process.stdout is not None:
        os.set_blocking(process.stdout.fileno(), False)
    return Child(name, process, log)


def environment(threads: int) -> dict[str, str]:
    """The children's environment: the number of threads is the config's, whatever the caller's environment says."""
    ours = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    ours |= {"OMP_DYNAMIC": "false", "MKL_DYNAMIC": "false"}
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    if PACKAGES not in installed:
        # Run from its source, installed or not: -P keeps the current folder out, this puts the packages in.
        ours["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **ours}


def is_stopped(pid: int) -> bool:
    """Whether a SIGSTOP holds this process; where there is no /proc it can't be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except OSError:
        return False


def spoken_end(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def last_line(log: Path, *, records: bool = True) -> str:
    """The last line that says something, for a sentence; empty if there is none.

    A log record is told without its time and level; with `records` off it says nothing: what raised is wanted. What is
    too long is cut, but for its code.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    text = _RECORD.sub("", line)
    if not records and text != line:
        return ""
    cut, code = text if len(text) <= SAID_MOST else f"{text[:SAID_MOST]}…", code_of(text)
    return coded(cut, code) if code else cut
