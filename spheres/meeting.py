"""Two doctors meet: each listens at a port of its own, and each dials the other, so both directions are tried.

What is listened at is locked with a pair that is drawn for it; its public half comes to the others through control,
which gives it to nobody but who may take part. Whoever connects hears what it says, cut to eight bytes, and no more. A
meeting costs about MEASURED_S and MEASURED_BYTES at most each way: steps that are under way hardly notice.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

import zmq

from control.checkup import Contact, Doctor
from control.keyfile import Pair, be_server, lock_to

DIAL_S = 1.5
PINGS = 8
MEASURED_S = 0.5
MEASURED_BYTES = 4 << 20
PIECE_BYTES = 1 << 16
AHEAD = 16
"""Pieces that are under way: a megabyte, so a link of 100 ms is measured up to 10 MB/s."""
ECHOED_BYTES = 8
FRAME_BYTES_MOST = 2 * PIECE_BYTES
"""On the line, where it is encrypted."""
LOOK_MS = 100


class Meeting:
    """Listens from when it is made until it is left, with a thread of its own. port: on all addresses."""

    def __init__(self) -> None:
        self._pair = Pair.draw()
        self.key = self._pair.public
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, 0)
        self._router.setsockopt(zmq.IPV6, 1)
        self._router.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MOST)
        be_server(self._router, self._pair)
        try:
            self._router.bind("tcp://[::]:*")
        except zmq.ZMQError:  # a machine without IPv6
            self._router.bind("tcp://0.0.0.0:*")
        self.port = int(self._router.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="meeting", daemon=True)
        self._thread.start()

    def __enter__(self) -> Meeting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _serve(self) -> None:
        try:
            while not self._over.is_set():
                if not self._router.poll(LOOK_MS):
                    continue
                identity, *frames = self._router.recv_multipart()
                try:
                    self._router.send_multipart([identity, b"".join(frames)[:ECHOED_BYTES]], zmq.NOBLOCK)
                except zmq.ZMQError:
                    pass  # it has left, or reads nothing
        finally:
            self._router.close(0)
            self._context.term()


def dial(other: Doctor) -> Contact:
    """Connect to another doctor where its spheres would be reached; only where that fails, at its other addresses.

    Blocks for some seconds at most. A connection counts once that doctor has proved its key and has answered.
    """
    pair = Pair.draw()
    addresses = [address for _, address in other.places]
    for some in (addresses[:1], addresses[1:]):
        with _Lines(other, some, pair) as lines:
            if (reached := lines.first()) is not None:
                address, line = reached
                return Contact(doctor=other.name, address=address, **measured(line))
    return Contact(doctor=other.name)


class _Lines:
    """To one doctor, at several addresses at once."""

    def __init__(self, other: Doctor, addresses: list[str], pair: Pair) -> None:
        self._context = zmq.Context()
        self._lines: dict[zmq.Socket[bytes], str] = {}
        for address in addresses:
            line = self._context.socket(zmq.DEALER)
            line.setsockopt(zmq.LINGER, 0)
            line.setsockopt(zmq.IPV6, int(":" in address))
            line.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MOST)
            lock_to(line, other.key, pair)
            line.connect(f"tcp://{f'[{address}]' if ':' in address else address}:{other.port}")
            line.send(bytes(ECHOED_BYTES))
            self._lines[line] = address

    def __enter__(self) -> _Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self._lines:
            line.close(0)
        self._context.term()

    def first(self) -> tuple[str, zmq.Socket[bytes]] | None:
        """The one that is answered first; None: none is within DIAL_S."""
        if not self._lines:
            return None
        poller = zmq.Poller()
        for line in self._lines:
            poller.register(line, zmq.POLLIN)
        for line, _ in poller.poll(int(DIAL_S * 1000)):
            line.recv()
            return self._lines[line], line
        return None


def measured(line: zmq.Socket[bytes]) -> dict[str, float]:
    """The shortest of some round trips, and what goes that way in a second; without what did not come back in time."""
    round_trips = []
    for _ in range(PINGS):
        began_s = time.monotonic()
        line.send(bytes(ECHOED_BYTES))
        if not line.poll(int(DIAL_S * 1000)):
            break
        line.recv()
        round_trips.append(time.monotonic() - began_s)
    if not round_trips:
        return {}
    return {"round_trip_s": min(round_trips), "bytes_per_s": _sent_bytes_per_s(line)}


def _sent_bytes_per_s(line: zmq.Socket[bytes]) -> float:
    began_s = last_s = time.monotonic()
    sent = back = 0
    while True:
        while sent * PIECE_BYTES < MEASURED_BYTES and sent - back < AHEAD and last_s - began_s < MEASURED_S:
            line.send(bytes(PIECE_BYTES))
            sent += 1
        if back == sent or not line.poll(int(DIAL_S * 1000)):
            break
        line.recv()
        back += 1
        last_s = time.monotonic()
    return back * PIECE_BYTES / (last_s - began_s) if back else 0.0
