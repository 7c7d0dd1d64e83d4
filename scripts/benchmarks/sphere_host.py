"""`python -m scripts.benchmarks.sphere_host NAME INTERFACE CONTROL DIR PATH…`: the spheres of a pretended host.

Workers with what a host of its own would have: a name, its own shared memory, and the interface that leads to the
other host. Nobody starts one anew. It is run inside the host's network namespace (`ip netns exec`, which gives it a
mount namespace as well).
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from spheres import launch
from spheres.pids import tell_when_parent_ends
from spheres.post import Post

CLONE_NEWUTS = 0x04000000


def main(name: str, interface: str, control: str, folder: Path, paths: list[str]) -> int:
    launch.follow_launcher()
    be_a_host(name)
    from spheres import worker

    pids = []
    for path in paths:
        pid = os.fork()
        if pid == 0:
            tell_when_parent_ends(signal.SIGKILL)
            log = os.open(folder / "logs" / f"{path.replace('/', '-')}.log", os.O_WRONLY | os.O_CREAT, 0o644)
            os.dup2(log, 2)
            os._exit(worker.main(Post(folder, control, path, interface=interface)))
        pids.append(pid)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in pids)


def be_a_host(name: str) -> None:
    """A host name and a /dev/shm of this process's own, so that nobody takes the other host for this one."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUTS):
        raise OSError(ctypes.get_errno(), "a host name of one's own was refused")
    socket.sethostname(name)
    if os.path.isdir("/dev/shm"):
        subprocess.run(["mount", "-t", "tmpfs", "none", "/dev/shm"], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), sys.argv[5:]))
