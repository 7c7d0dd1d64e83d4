"""Processes by number, without mistaking one for another: a number comes again, (number, start time) does not.

A pid file holds "NUMBER STARTTIME", the latter as field 22 of /proc/NUMBER/stat has it; 0 where there is no /proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
from collections.abc import Collection
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def start_time(pid: int) -> int | None:
    """When the process began, in the kernel's ticks; None if there is none of this number, or no /proc."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def write(file: Path, pid: int) -> None:
    """Write the pid file of a living process, whole or not at all; its folder is made.

    On a full disk there is none: nobody is to die of that, and a worker's life hangs on a pipe.
    """
    aside = file.with_name(f"{file.name}.{os.getpid()}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(f"{pid} {start_time(pid) or 0}\n")
        os.replace(aside, file)
    except OSError:
        for left in (aside, file):
            with contextlib.suppress(OSError):
                left.unlink()


def read(file: Path) -> tuple[int, int] | None:
    """(number, start time); None if there is no such file or it holds something else."""
    try:
        pid, begun = map(int, file.read_text().split())
    except (OSError, ValueError):
        return None
    return pid, begun


def end_former(file: Path) -> int:
    """See to it that the process a pid file names is dead, and its process group too; its number.

    0 if the file names none, or where that can't be known: only Linux has a handle on a process that is not a child.
    Blocks until it is dead, which the kernel may put off as long as a disk or a network file system hangs.
    """
    found = read(file)
    if found is None or sys.platform != "linux":
        return 0
    pid, begun = found
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        _end_group(pid)
        return pid
    try:
        if start_time(pid) == begun:  # read with the handle in hand: from here on it is this one
            kill(handle)
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            ended.poll()
            _end_group(pid)
    finally:
        os.close(handle)
    return pid


def kill(handle: int) -> None:
    """Kill the process behind a pidfd, unless it has ended: its parent may reap it in this moment. Linux only."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, signal.SIGKILL)


def _end_group(pid: int) -> None:
    """What a worker has started is of its group, whose number stays taken as long as one of them lives."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def tell_when_parent_ends(number: int) -> None:
    """Have the kernel send this process a signal when its parent ends, 0 for none; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


def adopt_orphans() -> None:
    """Be the parent of whatever loses its own below this process, so that it can be reaped; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def reap_orphans(own: Collection[int]) -> bool:
    """Reap children that have ended, but for `own`, which are waited for elsewhere; whether any child is left.

    One of `own` that has ended hides the others from us: it is to be waited for first.
    """
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        if ended is None or ended.si_pid in own:
            return True
        os.waitpid(ended.si_pid, 0)
