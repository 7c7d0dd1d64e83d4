"""What a client's end sees of its handshakes: whether it is turned away, and why.

A key that is not allowed is told so; where one end locks its line and the other doesn't, that is seen: after either
libzmq tries no more. But mostly the control of another run, or one that wants a key, only hangs up, again and again;
and so does one that dies in that moment.
"""

from __future__ import annotations

import struct

import zmq

MADE, DENIED = zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_HANDSHAKE_FAILED_AUTH
UNLIKE, HUNG_UP = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
EVENTS = MADE | DENIED | UNLIKE | HUNG_UP
EVENT = struct.Struct("=hi")
"""pyzmq's own parser imports asyncio."""

NOT_ALLOWED = "this machine's key is not allowed there: it was revoked, or is of another run [LW542]"
WANTS_A_KEY = "it wants a key, and this machine has none for it; give one by --key FILE [LW542]"
WANTS_ANOTHER = "it is not the control that this key is for, or wants none; give another by --key FILE [LW542]"


class Handshakes:
    """Of one socket. keyed: it shows a key. tries: so often in a row, before the first that succeeds, nobody is hung
    up on by chance. denied: told that its key is not allowed."""

    def __init__(self, *, keyed: bool, tries: int) -> None:
        self._keyed = keyed
        self._tries = tries
        self.denied = self._made = self._unlike = False
        self._hung_up = 0

    def read(self, monitor: zmq.Socket[bytes]) -> None:
        """All that the socket's monitor has to tell."""
        while monitor.poll(0):
            self.note(EVENT.unpack(monitor.recv_multipart()[0])[0])

    def note(self, event: int) -> None:
        """One event of it; others than EVENTS say nothing."""
        if event == MADE:
            self._made, self.denied, self._hung_up = True, False, 0
        elif event == DENIED:
            self.denied = True
        elif event == UNLIKE:
            self._unlike = True
        elif event == HUNG_UP:
            self._hung_up += 1

    def why_refused(self) -> str:
        """A sentence; empty if nothing says so."""
        if self.denied:
            return NOT_ALLOWED
        if self._unlike or (self._hung_up and not self._made):
            return WANTS_ANOTHER if self._keyed else WANTS_A_KEY
        return ""

    def are_over(self) -> bool:
        """Whether waiting any longer is of no use."""
        return self.denied or self._unlike or (not self._made and self._hung_up >= self._tries)
