"""A connection as a sphere's is, without libzmq: ZMTP 3.0 of a DEALER over one plain socket.

For a process that plays thousands of spheres: no socket of its own thread, no polling of all, a few µs a frame.
"""

from __future__ import annotations

import contextlib
import socket
import struct

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
LONG, COMMAND = 0x02, 0x04
READ_BYTES = 1 << 18


def frame(body: bytes, flags: int = 0) -> bytes:
    """One message of one part, or one command."""
    if len(body) < 256:
        return struct.pack("!BB", flags, len(body)) + body
    return struct.pack("!BQ", flags | LONG, len(body)) + body


def ready(identity: bytes) -> bytes:
    """The command that ends the handshake."""
    properties = [(b"Socket-Type", b"DEALER"), (b"Identity", identity)]
    told = b"".join(struct.pack("!B", len(n)) + n + struct.pack("!I", len(v)) + v for n, v in properties)
    return frame(b"\x05READY" + told, COMMAND)


class Wire:
    """One connection. Never blocks once made; `closed` when the peer has hung up.

    open: the peer's handshake is over; what is sent before would be lost on a peer that does not know us yet.
    """

    def __init__(self, host: str, port: int, identity: bytes) -> None:
        self.open = False
        self.closed = False
        self._out = bytearray(GREETING + ready(identity))
        self._in = bytearray()
        self._greeted = False
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.flush()

    def send(self, message: bytes) -> None:
        self._out += frame(message)
        self.flush()

    def ping(self) -> None:
        """libzmq's own heartbeat, without a time after which we would count as gone."""
        self._out += frame(b"\x04PING" + bytes(2), COMMAND)
        self.flush()

    def flush(self) -> bool:
        """Whether all has left; call it again when not."""
        while self._out and not self.closed:
            try:
                sent = self.socket.send(self._out)
            except BlockingIOError:
                return False
            except OSError:
                self.close()
                break
            del self._out[:sent]
        return True

    def receive(self) -> list[bytes]:
        """The messages that have come."""
        try:
            got = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            got = b""
        if not got:
            self.close()
            return []
        self._in += got
        return self._messages()

    def _messages(self) -> list[bytes]:
        if not self._greeted:
            if len(self._in) < len(GREETING):
                return []
            del self._in[: len(GREETING)]
            self._greeted = True
        messages, at = [], 0
        while len(self._in) - at >= 2:
            flags = self._in[at]
            head = 9 if flags & LONG else 2
            if len(self._in) - at < head:
                break
            size = int.from_bytes(self._in[at + 1 : at + head], "big")
            if len(self._in) - at - head < size:
                break
            body = bytes(self._in[at + head : at + head + size])
            at += head + size
            if flags & COMMAND:
                self._obey(body)
            else:
                messages.append(body)
        del self._in[:at]
        return messages

    def _obey(self, command: bytes) -> None:
        if command.startswith(b"\x05READY"):
            self.open = True
        elif command.startswith(b"\x04PING"):
            self._out += frame(b"\x04PONG" + command[7:], COMMAND)
            self.flush()

    def close(self) -> None:
        """As the end of the process would."""
        self.closed = True
        with contextlib.suppress(OSError):
            self.socket.close()
