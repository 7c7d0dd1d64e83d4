"""Which of this process's sockets belong to a gloo device, and how to shut them: gloo's missing abort.

Found by evidence, not by when they appeared: all groups of a sphere share one gloo device; a TCP connection is theirs
if it was accepted at the device's port or leads to the port of a peer's device. A reconnect of ZeroMQ in the middle of
a build can't be mistaken for one. A descriptor is kept with its inode, so that a number used again is left alone; not
as a duplicate, for that would keep the connection open when gloo closes it, and its closing is what peers notice.

Linux only: without /proc nothing is found, nothing is shut, and gloo's time-outs must do. Where spheres are threads of
one process (tests), their outgoing connections to one peer can't be told apart: shutting one's shuts the siblings' too.
"""

from __future__ import annotations

import os
import socket
import threading

from torch.distributed import ProcessGroupGloo

from control.descriptors import opened

_looking = threading.Lock()
"""Per process: a look makes duplicates, which another thread must not take for what it looks for."""


def listen(address: str) -> tuple[ProcessGroupGloo.Device, int]:
    """A gloo device bound to `address`, and the port it listens at (0 where that can't be seen)."""
    with _looking:
        before = set(_descriptors().values())
        device = ProcessGroupGloo.create_device(hostname=address)
        new = [number for number, inode in _descriptors().items() if inode not in before]
        for number in new:
            try:
                with opened(number) as copy:
                    if _is_listener(copy):
                        return device, int(copy.getsockname()[1])
            except OSError:  # another thread's, closed meanwhile
                continue
    return device, 0


def connections(port: int, ports: set[int]) -> dict[int, str]:
    """Descriptors and inodes of the TCP connections accepted at `port` or leading to one of `ports`."""
    found: dict[int, str] = {}
    with _looking:
        for number, inode in _descriptors().items():
            try:
                with opened(number) as copy:
                    if copy.family in (socket.AF_INET, socket.AF_INET6) and not _is_listener(copy):
                        if copy.getsockname()[1] == port or copy.getpeername()[1] in ports:
                            found[number] = inode
            except OSError:  # closed meanwhile, or not connected
                continue
    return found


def _descriptors() -> dict[int, str]:
    """This process's socket descriptors with their inodes; empty without /proc."""
    found: dict[int, str] = {}
    try:
        numbers = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for number in numbers:
        try:
            inode = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if inode.startswith("socket:"):
            found[int(number)] = inode
    return found


def _is_listener(copy: socket.socket) -> bool:
    """gloo ends the process if its listener is shut down, so it must never be."""
    return bool(copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def are_open(sockets: dict[int, str]) -> bool:
    """Whether all of them still are what they were: gloo closes a connection as soon as it breaks."""
    try:
        return all(os.readlink(f"/proc/self/fd/{number}") == inode for number, inode in sockets.items())
    except OSError:
        return False


def shut(descriptor: int, inode: str) -> None:
    """Shut a connection down for both sides, if the descriptor still is what it was."""
    try:
        with _looking:
            if os.readlink(f"/proc/self/fd/{descriptor}") == inode:
                with opened(descriptor) as copy:
                    if not _is_listener(copy):
                        copy.shutdown(socket.SHUT_RDWR)
    except OSError:  # closed or broken already: whoever was blocked on it knows
        return
