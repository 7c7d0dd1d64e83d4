"""What a client's end sees of its handshakes: whether it is turned away, and why.

A key that is not allowed is told so, once, and libzmq tries no more. A client without a key where one is wanted, or
with that of another run's control, is only hung up on, again and again; so is one whose control dies in that moment.
"""

from __future__ import annotations

import struct

import zmq

MADE, DENIED = zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_HANDSHAKE_FAILED_AUTH
HUNG_UP = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
EVENT = struct.Struct("=hi")
"""pyzmq's own parser imports asyncio."""
TRIES = 10
"""So often in a row nobody is hung up on by chance."""

NOT_ALLOWED = "this machine's key is not allowed there: it was revoked, or is of another run [LW542]"
WANTS_A_KEY = "it wants a key, and this machine has none for it; give one by --key FILE [LW542]"
WANTS_ANOTHER = "it is not the control that this key is for, or wants none; give another by --key FILE [LW542]"


class Handshakes:
    """Of one socket, made before it connects; close it before the socket. keyed: it shows a key."""

    def __init__(self, socket: zmq.Socket[bytes], *, keyed: bool) -> None:
        self._socket = socket
        self._keyed = keyed
        self._denied = False
        self._hung_up = 0
        self._monitor = socket.get_monitor_socket(MADE | DENIED | HUNG_UP)

    def _look(self) -> None:
        while self._monitor.poll(0):
            self.note(EVENT.unpack(self._monitor.recv_multipart()[0])[0])

    def note(self, event: int) -> None:
        """One event of the socket's monitor."""
        if event == MADE:
            self._hung_up, self._denied = 0, False
        elif event == DENIED:
            self._denied = True
        elif event & HUNG_UP:
            self._hung_up += 1

    def why_refused(self) -> str:
        """A sentence; empty if nothing says so."""
        self._look()
        if self._denied:
            return NOT_ALLOWED
        if self._hung_up:
            return WANTS_ANOTHER if self._keyed else WANTS_A_KEY
        return ""

    def are_over(self) -> bool:
        """Whether waiting any longer is of no use."""
        self._look()
        return self._denied or self._hung_up >= TRIES

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(0)
