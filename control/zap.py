"""libzmq's question of who may come in (ZAP, RFC 27), answered from a list of our own.

pyzmq's `zmq.auth` would do, but it imports asyncio, a fifth of the time that control takes to start. A handshake that
libzmq finds sound comes here with the public key that it proved; what speaks no CURVE, or knows no half of ours, never
gets so far. The key becomes the connection's User-Id, which each of its frames carries.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq
import zmq.utils.z85

from .keyfile import Pair, be_server

ADDRESS = "inproc://zeromq.zap.01"
DOMAIN = b"lightwatch"
VERSION = b"1.0"
MOST = 256
"""Answers given at once, before anything else gets a turn."""


class Gate:
    """For the sockets of one context: make it before they are bound. may_enter: by public key. Not thread-safe.

    refused: how many keys were told no so far.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], may_enter: Callable[[str], bool]) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(ADDRESS)
        self.refused = 0
        self._may_enter = may_enter

    def guard(self, socket: zmq.Socket[bytes], pair: Pair) -> None:
        """Before it is bound: whoever connects is asked about here, and without an answer nobody comes in."""
        be_server(socket, pair)
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def answer(self) -> None:
        """All who wait at the door. Never blocks."""
        for _ in range(MOST):
            try:
                question = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            key = _proved(question)
            may = key is not None and self._may_enter(key)
            self.refused += not may
            told = (b"200", b"OK", (key or "").encode()) if may else (b"400", b"this key is not allowed", b"")
            number = question[1] if len(question) > 1 else b""
            self.socket.send_multipart([VERSION, number, *told, b""])

    def close(self) -> None:
        self.socket.close(0)


def _proved(question: list[bytes]) -> str | None:
    """The public key that a handshake has proved, in Z85; None if the question is none of CURVE's."""
    if len(question) != 7 or question[0] != VERSION or question[5] != b"CURVE" or len(question[6]) != 32:
        return None
    key: str = zmq.utils.z85.encode(question[6]).decode()
    return key
