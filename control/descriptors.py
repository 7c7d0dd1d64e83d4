"""Connections that are libzmq's, by descriptor: what the kernel knows of them, and how to break one.

libzmq asks by itself who is silent (ZMQ_HEARTBEAT_IVL), but not for many: each question sets a timer, each answer takes
one away, and for that (4.3.5, poller_base) it looks through all timers of all connections. With a thousand spheres that
was half of its thread's work, and with five thousand there was no time left to accept one more. The kernel knows when
it has last received anything, and is asked only about those whose heartbeats are missing.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

TELLS_SILENCE = sys.platform == "linux"
"""Whether `silent_s` says anything here."""

INFO_BYTES = 56
LAST_DATA = struct.Struct("=52xI")
"""tcpi_last_data_recv of struct tcp_info (linux/tcp.h), in ms. What only acknowledges is no data."""


def silent_s(descriptor: int) -> float:
    """Seconds since anything was received over this connection, read or not; 0 if nobody knows."""
    if not TELLS_SILENCE:
        return 0.0
    try:
        with opened(descriptor) as copy:
            (last_ms,) = LAST_DATA.unpack(copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_BYTES))
    except (OSError, struct.error):  # it has closed already, or the kernel tells less
        return 0.0
    return float(last_ms) / 1000


def shut(descriptor: int) -> None:
    """Break a connection, for both sides: libzmq sees that and closes it. Should the number be another's by now, that
    one is made anew."""
    try:
        with opened(descriptor) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has closed already


def caller(descriptor: int) -> str | None:
    """The IPv4 address at the other end; empty if it can't be known. None: it is of this machine."""
    try:
        with opened(descriptor) as copy:
            here, there = copy.getsockname()[0], copy.getpeername()[0]
    except OSError:
        return ""
    if here == there:
        return None
    plain = there.removeprefix("::ffff:")
    return plain if ":" not in plain else ""


def opened(descriptor: int) -> socket.socket:
    """A duplicate to ask and to shut by, to be closed by whoever asks. Raises OSError if the number is no socket's any
    more: it may be a file's by now."""
    own = os.dup(descriptor)
    try:
        return socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise
