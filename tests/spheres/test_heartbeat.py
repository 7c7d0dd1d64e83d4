"""What control's door sees of a sphere that is busy, and of one that is stopped. The sphere is a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from control.door import Arrived, Door
from control.protocol import Beat, Failed, Hello, Phase, ToControl, Welcome
from control.wire import decode_at_control, encode

SILENCE_S = 0.5

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


class Porter:
    """Control's own door, and who stands at it: everybody is welcomed, and who is silent is hung up on."""

    def __init__(self) -> None:
        self.door = Door("tcp://127.0.0.1:*", SILENCE_S)
        self.received: list[ToControl] = []
        self.left: list[bytes] = []
        self._spoken: set[bytes] = set()

    def until(self, holds: Callable[[], bool], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, "it did not come about in time"
            self.door.wait(0.02)
            for heard in self.door.receive():
                if isinstance(heard, Arrived):
                    self._spoken.add(heard.identity)
                    self.received.append(decode_at_control(heard.frame))
                    if isinstance(self.received[-1], Hello):
                        self.door.send(heard.identity, encode(Welcome(sphere=7, incarnation=1)))
                else:
                    self.left.append(heard.identity)
            for identity in self._spoken:
                self.door.cut_if_silent(identity)

    def has_heard(self, text: str) -> bool:
        return Failed(text=text) in self.received


@pytest.fixture
def control() -> Iterator[Porter]:
    porter = Porter()
    try:
        yield porter
    finally:
        porter.door.close()


@pytest.fixture
def sphere(control: Porter) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", SPHERE, control.door.address]
    with subprocess.Popen(words, stdin=subprocess.PIPE, text=True) as process:
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
def test_the_heartbeat_survives_a_gil_held_for_two_seconds(control: Porter, sphere: subprocess.Popen[str]) -> None:
    """Control hangs up on who is silent for 0.5 s; in 2 s without the GIL on nobody, though no Beat comes."""
    tell(sphere, "hold")
    control.until(lambda: control.has_heard("held"), 20.0)
    assert not control.left
    during = control.received[control.received.index(Failed(text="holding")) :]
    during = during[: during.index(Failed(text="held"))]
    assert sum(isinstance(message, Beat) for message in during) <= 2, "the GIL was not held: nothing was tried"
    assert any(isinstance(message, Beat) and message.phase is Phase.ADMITTED for message in control.received)


@pytest.mark.cluster
def test_a_stopped_process_is_noticed_by_its_connection(control: Porter, sphere: subprocess.Popen[str]) -> None:
    """SIGSTOP stops libzmq's thread too: no sooner than 0.5 s after its last word, and within 3 s here."""
    os.kill(sphere.pid, signal.SIGSTOP)
    stopped_s = time.monotonic()
    control.until(lambda: bool(control.left), 3.0)
    assert time.monotonic() - stopped_s > SILENCE_S / 2


@pytest.mark.cluster
def test_a_killed_process_is_noticed_by_its_connection(control: Porter, sphere: subprocess.Popen[str]) -> None:
    """The kernel closes the connection: no need to wait for any silence."""
    sphere.kill()
    control.until(lambda: bool(control.left), 3.0)
