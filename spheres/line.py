"""A DEALER socket that is watched, and a bell that wakes whoever waits at it.

Two heartbeats keep it honest; this is the one of libzmq's own I/O thread, which knows no GIL: it answers and sends
ZMTP pings, and they stop only with the process. Control hangs up where neither a word nor a ping has come for its own
silence_s: it is to be the same as here. The context is the line's own, so that closing ends that thread too.
"""

from __future__ import annotations

import re
import socket
import uuid
from collections.abc import Iterator

import zmq
from zmq.utils.monitor import recv_monitor_message

from control.handshakes import EVENTS, Handshakes
from control.keyfile import KeyFile, lock
from control.wire import FROM_CONTROL_BYTES_MOST

LINGER_MS = 1000
TRIES = 50
"""So often control may hang up before the first handshake: it may be about to start."""


def is_address(address: str) -> bool:
    """Whether it reads tcp://HOST:PORT."""
    form = r"tcp://([^:/\s]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}"
    return bool(re.fullmatch(form, address)) and int(address.rsplit(":", 1)[1]) <= 65535


class Line:
    """One thread's, but for `ring`. connected: as of the last look.

    silence_s: after so many seconds without a sign the connection counts as broken, and is made anew. key: what this
    machine shows to control; None: the run has no keys.
    """

    def __init__(self, address: str, silence_s: float, key: KeyFile | None = None) -> None:
        self.connected = False
        self.handshakes = Handshakes(keyed=key is not None, tries=TRIES)
        self._context = zmq.Context(io_threads=1)
        self._woken, self._wake = socket.socketpair()
        silence_ms = max(int(silence_s * 1000), 10)
        self.socket = self._context.socket(zmq.DEALER)
        if key is None:  # the same after a broken connection; where there are keys, control names each by itself
            self.socket.setsockopt(zmq.ROUTING_ID, uuid.uuid4().bytes)
        lock(self.socket, key)
        self.socket.setsockopt(zmq.LINGER, LINGER_MS)
        self.socket.setsockopt(zmq.IPV6, int("[" in address))
        self.socket.setsockopt(zmq.MAXMSGSIZE, FROM_CONTROL_BYTES_MOST)
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, max(silence_ms // 5, 1))
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, silence_ms)
        self.socket.setsockopt(zmq.RECONNECT_IVL, max(min(50, silence_ms // 5), 1))
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, max(silence_ms // 5, 1))
        # Else a connection that was begun while nothing came through waits for the kernel, which asks ever more rarely.
        self.socket.setsockopt(zmq.CONNECT_TIMEOUT, max(silence_ms, 500))
        self._monitor = self.socket.get_monitor_socket(EVENTS | zmq.EVENT_DISCONNECTED)
        self.socket.connect(address)
        self._poller = zmq.Poller()
        for source in (self.socket, self._monitor, self._woken):
            self._poller.register(source, zmq.POLLIN)

    def ring(self) -> None:
        """Wake whoever waits, from any thread."""
        try:
            self._wake.send(b"x", socket.MSG_DONTWAIT)
        except (BlockingIOError, OSError):  # it is full: the thread is about to look anyway; or closed: nobody will
            pass

    def wait(self, timeout_s: float) -> None:
        """Until something came, the bell rang, or the time is over."""
        ready = dict(self._poller.poll(max(int(timeout_s * 1000) + 1, 0)))
        if self._woken.fileno() in ready:
            self._woken.recv(4096)

    def changes(self) -> Iterator[bool]:
        """Each connection made (True) or broken since the last look."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self.handshakes.note(event)
            if event in (zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_DISCONNECTED):
                self.connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
                yield self.connected

    def frames(self) -> Iterator[bytes]:
        """What has come."""
        while True:
            try:
                yield self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return

    def send(self, frame: bytes) -> bool:
        """False: the peer reads too slowly, try again later."""
        try:
            self.socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """What was sent goes out, a second long at most, if anybody is connected."""
        self.socket.disable_monitor()
        self._monitor.close(0)
        self.socket.close(LINGER_MS if self.connected else 0)
        self._context.term()
        self._woken.close()
        self._wake.close()
