"""Who floods control, faster than it hears, and then breaks off: libzmq 4.3.5 would end the process over it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.cli.commands import ROOT

HEARTBEATS = "door.TELLS_SILENCE = False"
LIMIT = "door.UNLIMITED = 100"

FLOODED = """
import socket, struct, sys, time
from control import door
from scripts.benchmarks.wire import Wire
pings = {pings}
{changed}
control = door.Door("tcp://127.0.0.1:*", 2.0)
flood = Wire("127.0.0.1", int(control.address.rpartition(":")[2]), b"flood")
while not flood.open:
    flood.receive()
for _ in range(1000):
    flood.send(b"x" * 100)
    if pings:
        flood.ping()
while not flood.flush():
    pass
time.sleep(0.2)  # libzmq's thread takes in what it may
flood.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
flood.socket.close()
time.sleep(0.6)  # longer than from one heartbeat to the next
print(len(control.receive()))
control.close()
"""


def flooded(*changed: str, pings: bool) -> subprocess.CompletedProcess[str]:
    """A door in a process of its own."""
    words = [sys.executable, "-c", FLOODED.format(changed="\n".join(changed), pings=pings)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("changed", [[], [HEARTBEATS]], ids=["as it is", "where the kernel can't tell who is silent"])
@pytest.mark.parametrize("pings", [False, True])
def test_who_floods_control_and_breaks_off_ends_nothing(changed: list[str], pings: bool) -> None:
    """All that it said is there to be heard."""
    done = flooded(*changed, pings=pings)
    assert (done.returncode, done.stdout) == (0, "1000\n"), done.stderr


def test_a_limit_to_what_waits_would_end_control() -> None:
    """The connection is stopped and breaks, and then a heartbeat is due. Where this fails, libzmq has been mended."""
    done = flooded(LIMIT, HEARTBEATS, pings=False)
    assert done.returncode == -signal.SIGABRT and "_io_error" in done.stderr
