"""The ledger's lock: one writer a file, also over NFS."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from pathlib import Path

from .errors import LedgerError

LOCK_BYTE = 1 << 40
_FLOCK = struct.Struct("hhqqi4x")
"""The kernel's `struct flock`: type, whence, start, length, pid."""


def refuse_if_written(path: Path) -> None:
    """Raise LedgerError if another process writes this ledger now; nothing of it is touched."""
    if path.exists():
        os.close(locked(path))


def locked(path: Path) -> int:
    """A descriptor that holds the writer's lock, on one byte far behind those that SQLite locks.

    Not flock: over NFS, and on macOS, that is a lock of the whole file, which SQLite's own would meet.
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LedgerError(f"ledger {path}: can't be opened: {error.strerror} [LW521]") from None
    try:
        if sys.platform == "linux":  # the descriptor's own: no other one that is closed drops it
            fcntl.fcntl(lock, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, LOCK_BYTE, 1, 0))
        else:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, LOCK_BYTE, os.SEEK_SET)
    except OSError as error:
        os.close(lock)
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise LedgerError(f"ledger {path}: can't be locked: {error.strerror} [LW521]") from None
        raise LedgerError(f"ledger {path}: another process is writing it; one control a run [LW522]") from None
    return lock
