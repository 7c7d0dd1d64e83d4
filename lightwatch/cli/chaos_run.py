"""One `lightwatch train` as a child: followed while it trains, and ended if it hangs. It is the product's own command.

A run hangs if no version comes for a while, or if processes of it are left when it is over.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .chaos_injector import Injector
from .chaos_processes import Process, process_of
from .folder import RunFolder, read_json
from .processes import environment
from .rows import Tail
from .signals import Signals

LOOK_S = 0.02
SILENT_MOST_S = 60.0
"""Without a version so long, a run hangs. The first one has to wait for every process to import torch."""
LEAVES_S = 5.0
"""So long may the last processes take to end after the launcher."""


@dataclass(frozen=True)
class Trained:
    """How the child ended. code: None if it was killed; hung: why, empty if it did not hang."""

    code: int | None
    hung: str
    began_at: float
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def is_well(self) -> bool:
        return self.code == 0 and not self.hung and self.summary.get("status") == "completed"

    @property
    def reason(self) -> str:
        """Why it is not well, for a sentence."""
        return self.hung or str(self.summary.get("reason") or f"it ended with code {self.code}")


def follow(
    folder: RunFolder,
    flags: list[str],
    injector: Injector,
    signals: Signals,
    tell: Callable[[int], None],
    armed: str = "",
) -> Trained:
    """Run it to its end. Its words go to NAME.log beside its folder, NAME being the folder's.

    flags: of `lightwatch train`. tell: called with each new version. armed: a crash point. Raises KeyboardInterrupt
    on a signal, with nothing left behind.
    """
    from control.crash import VARIABLE

    command = [
        sys.executable,
        "-P",
        "-m",
        "lightwatch",
        "train",
        *flags,
        "--out",
        str(folder.path),
        "--quiet",
        "--json",
    ]
    variables = {name: value for name, value in environment(1).items() if name != VARIABLE}
    began_at = time.time()
    with folder.path.with_name(f"{folder.path.name}.log").open("wb") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**variables, VARIABLE: armed} if armed else variables,
        )
    launcher = process_of(child.pid)
    injector.roster.seen.add(launcher)
    tail = Tail(folder.metrics)
    try:
        hung = _watch(child, injector, signals, tail, tell)
        if hung or signals.received:
            child.kill()
        code = child.wait()
    finally:
        tail.close()
        injector.close()
        left = _end_all(injector, launcher)
    if signals.received:
        raise KeyboardInterrupt
    if left and not hung:
        hung = f"{len(left)} of its processes were left {LEAVES_S:g} s after its end: {', '.join(map(str, left))}"
    return Trained(None if code == -signal.SIGKILL else code, hung, began_at, read_json(folder.summary) or {})


def _watch(
    child: subprocess.Popen[bytes], injector: Injector, signals: Signals, tail: Tail, tell: Callable[[int], None]
) -> str:
    """Until the child has ended, a signal came, or it hangs: then why."""
    version, heard_s = -1, time.monotonic()
    while child.poll() is None and not signals.received:
        signals.wait(LOOK_S)
        made, rows = injector.look(), tail.read()
        newest = max([version, *(each.version for each in made), *(row.get("version", -1) for row in rows)])
        if made or rows:
            heard_s = time.monotonic()
        if newest > version:
            version = newest
            tell(version)
        if time.monotonic() - heard_s > SILENT_MOST_S:
            return f"no version came for {SILENT_MOST_S:g} s after version {version}"
    return ""


def _end_all(injector: Injector, launcher: Process) -> list[int]:
    """Wait for the run's processes to end, then kill what is left; their ids."""
    deadline = time.monotonic() + LEAVES_S
    while (left := injector.roster.left()) and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    for process in left:
        process.send(signal.SIGKILL)
    return sorted(process.pid for process in left if process != launcher and process.pid != os.getpid())
