"""What control's socket sees of a sphere that is busy, and of one that is stopped. The sphere is a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import zmq

from control.protocol import Beat, Failed, Phase
from tests.spheres.fake_control import FakeControl

HEARTBEAT_MS = 500

SPHERE = """
import ctypes, sys
from control.protocol import Failed, Hello, Phase
from spheres.link import Link
link = Link(sys.argv[1], Hello(run_id="r", path="0", pid=1, host="h"), 0.5)
link.open(10.0)
for line in sys.stdin:
    if line.strip() == "hold":
        link.send(Failed(text="holding"))
        while len(link._outbox):
            pass
        ctypes.PyDLL(None).usleep(2_000_000)
        link.send(Failed(text="held"))
link.close()
"""


@pytest.fixture
def control() -> Iterator[FakeControl]:
    with FakeControl(heartbeat_ms=HEARTBEAT_MS) as control:
        yield control


@pytest.fixture
def sphere(control: FakeControl) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", SPHERE, control.address], stdin=subprocess.PIPE, text=True) as process:
        try:
            control.until(lambda: any(isinstance(message, Beat) for message in control.received), 20.0)
            yield process
        finally:
            process.kill()


def tell(sphere: subprocess.Popen[str], line: str) -> None:
    assert sphere.stdin is not None
    sphere.stdin.write(line + "\n")
    sphere.stdin.flush()


@pytest.mark.cluster
def test_the_heartbeat_survives_a_gil_held_for_two_seconds(control: FakeControl, sphere: subprocess.Popen[str]) -> None:
    """Control's socket drops who is silent for 0.5 s; in 2 s without the GIL it drops nobody, though no Beat comes."""
    tell(sphere, "hold")
    control.until(lambda: Failed(text="held") in control.received, 20.0)
    assert zmq.EVENT_DISCONNECTED not in control.events
    during = control.received[control.received.index(Failed(text="holding")) :]
    during = during[: during.index(Failed(text="held"))]
    assert sum(isinstance(message, Beat) for message in during) <= 2, "the GIL was not held: nothing was tried"
    assert any(isinstance(message, Beat) and message.phase is Phase.ADMITTED for message in control.received)


@pytest.mark.cluster
def test_a_stopped_process_is_noticed_by_its_connection(control: FakeControl, sphere: subprocess.Popen[str]) -> None:
    """SIGSTOP stops libzmq's thread too: the connection is dropped after 0.5 s, and seen so within 3 s here."""
    os.kill(sphere.pid, signal.SIGSTOP)
    control.until(lambda: zmq.EVENT_DISCONNECTED in control.events, 3.0)


@pytest.mark.cluster
def test_a_killed_process_is_noticed_by_its_connection(control: FakeControl, sphere: subprocess.Popen[str]) -> None:
    """The kernel closes the connection: no need to wait for any silence."""
    sphere.kill()
    control.until(lambda: zmq.EVENT_DISCONNECTED in control.events, 3.0)
