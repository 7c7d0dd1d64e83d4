"""Every test here leaves no thread and no socket behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from control.protocol import Hello
from spheres.link import Link
from tests.spheres.fake_control import FakeControl

DEADLINE_S = 8.0
HELLO = Hello(run_id="r", path="a/0", pid=1, host="h")


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


@pytest.fixture
def control() -> Iterator[FakeControl]:
    """One that admits everybody as sphere 7."""
    with FakeControl() as control:
        yield control


@pytest.fixture
def link(control: FakeControl) -> Iterator[Link]:
    """An admitted sphere's, with a silence of a second."""
    link = Link(control.address, HELLO, 1.0)
    link.open(5.0)
    yield link
    link.close()
