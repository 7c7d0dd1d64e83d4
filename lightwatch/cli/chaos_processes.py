"""The processes of a run that chaos may hit: each known by its id and the moment it started, so never another one's.

Linux alone: start times come from /proc, signals go by pidfd.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from .folder import RunFolder, read_json


@dataclass(frozen=True)
class Process:
    """A process, as long as it lives; its id alone could be given to another one after its death."""

    pid: int
    started: int
    """Field 22 of /proc/PID/stat, in ticks since the machine started."""

    @property
    def lives(self) -> bool:
        """Whether it is still there, also when stopped; a zombie is not."""
        state, started = _stat(self.pid)
        return started == self.started and state not in ("Z", "X")

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to exactly this process; False if it is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.lives:  # looked at with the handle open: it can't become another one's any more
                return False
            signal.pidfd_send_signal(handle, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)


class Roster:
    """Who is who in a run's folder now, and everyone who was ever seen there."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.seen: set[Process] = set()

    def worker(self, path: str) -> Process | None:
        return self._noted(self._folder.path / "spheres" / path / "worker.pid")

    def supervisor(self, path: str) -> Process | None:
        return self._noted(self._folder.path / "spheres" / path / "supervisor.pid")

    def template(self) -> Process | None:
        return self._noted(self._folder.template_pid)

    def template_socket(self) -> str:
        """Where the template listens, from its command line; empty while there is none."""
        template = self.template()
        words = _command(template.pid).split(b"\0") if template else []
        return words[words.index(b"--socket") + 1].decode() if b"--socket" in words[:-1] else ""

    def control(self) -> Process | None:
        """Its file holds no start time, so the command line must name the folder."""
        pid = (read_json(self._folder.address) or {}).get("pid")
        if not isinstance(pid, int) or str(self._folder.path).encode() not in _command(pid):
            return None
        return self._living(Process(pid, _stat(pid)[1]))

    def of(self, role: str, target: str) -> Process | None:
        """The living process of a role: sphere and supervisor by the path, control and template alone."""
        match role:
            case "sphere":
                return self.worker(target)
            case "supervisor":
                return self.supervisor(target)
            case "template":
                return self.template()
            case _:
                return self.control()

    def look(self, paths: list[str]) -> None:
        """See who is there, so that `left` knows them later."""
        for path in paths:
            self.worker(path)
            self.supervisor(path)
        self.template()
        self.control()

    def left(self) -> list[Process]:
        """All ever seen that still live."""
        return [process for process in self.seen if process.lives]

    def _noted(self, file: Path) -> Process | None:
        try:
            pid, started = file.read_text().split()
            return self._living(Process(int(pid), int(started)))
        except (OSError, ValueError):  # none yet, or half written
            return None

    def _living(self, process: Process) -> Process | None:
        if process in self.seen or process.lives:
            self.seen.add(process)
        return process if process.lives else None


def process_of(pid: int) -> Process:
    """A process of our own that lives."""
    return Process(pid, _stat(pid)[1])


def _stat(pid: int) -> tuple[str, int]:
    """State and start time; ("", -1) if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return "", -1


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
