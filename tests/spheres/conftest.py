"""Every test here leaves no thread and no socket behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

DEADLINE_S = 8.0


def sockets() -> set[str]:
    """The inodes of this process's sockets."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Threads and sockets after the test are those of before; what ends by itself has eight seconds for it."""
    threads, opened = set(threading.enumerate()), sockets()
    yield
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if set(threading.enumerate()) <= threads and sockets() <= opened:
            return
        threading.Event().wait(0.01)
    assert set(threading.enumerate()) <= threads, f"threads left: {set(threading.enumerate()) - threads}"
    assert sockets() <= opened, f"sockets left: {sockets() - opened}"
