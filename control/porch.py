"""Before the door: the kernel drops who is not let in before it costs a handshake, by a filter at the socket that
listens.

Linux alone has it (SO_ATTACH_FILTER, classic BPF, no privilege needed); elsewhere nobody is kept out here. What is
dropped is the first packet of a connection: who sent it tries again after a second, so nobody hears a refusal, and a
connection that stands is not looked at.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Collection
from contextlib import suppress

ATTACH, DETACH = 26, 27
KEPT = 32
"""Of those that are thinned, one of so many is let in; a power of two."""

LOAD, LOAD_BYTE, AND, EQUAL, RETURN, KEEP, EQUAL_KEPT = 0x20, 0x30, 0x54, 0x15, 0x06, 0x07, 0x1D
FLAGS, SYN, SYN_OR_ACK = 13, 0x02, 0x12
"""In the header of TCP, where a filter of such a socket begins to count."""
SOURCE, TARGET = 0xFFF0_000C, 0xFFF0_0010
"""In the header of IPv4 before it. In that of IPv6 it is a part of an address: all but never one of ours."""
CHANCE = 0xFFFF_F000 + 56
IN, OUT = 0xFFFF_FFFF, 0

Step = tuple[int, int, int, int]


class Porch:
    """Of the socket with this descriptor; close it."""

    def __init__(self, descriptor: int) -> None:
        self._listener = socket.socket(fileno=os.dup(descriptor))

    def shut(self, barred: Collection[str], known: Collection[str], *, thinned: bool) -> None:
        """Whom to keep out from now on: IPv4 addresses, and if thinned most of those that are not known; never this
        machine itself."""
        if sys.platform != "linux":
            return
        with suppress(OSError):  # a kernel without it keeps nobody out
            if not barred and not thinned:
                self._listener.setsockopt(socket.SOL_SOCKET, DETACH, 0)
                return
            steps = program(barred, known, thinned=thinned)
            code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
            self._listener.setsockopt(socket.SOL_SOCKET, ATTACH, struct.pack("@HP", len(steps), ctypes.addressof(code)))

    def close(self) -> None:
        self._listener.close()


def program(barred: Collection[str], known: Collection[str], *, thinned: bool) -> list[Step]:
    """Code, jump if so, jump if not, and operand: the filter, from its first step to its last."""
    steps: list[Step] = [(LOAD_BYTE, 0, 0, FLAGS), (AND, 0, 0, SYN_OR_ACK), (EQUAL, 1, 0, SYN), (RETURN, 0, 0, IN)]
    steps += [(LOAD, 0, 0, TARGET), (KEEP, 0, 0, 0), (LOAD, 0, 0, SOURCE)]
    steps += [(EQUAL_KEPT, 0, 1, 0), (RETURN, 0, 0, IN)]  # this machine itself
    for verdict, addresses in ((OUT, barred), (IN, known if thinned else ())):
        for address in addresses:
            steps += [(EQUAL, 0, 1, int(ipaddress.IPv4Address(address))), (RETURN, 0, 0, verdict)]
    if thinned:
        steps += [(LOAD, 0, 0, CHANCE), (AND, 0, 0, KEPT - 1), (EQUAL, 1, 0, 0), (RETURN, 0, 0, OUT)]
    return [*steps, (RETURN, 0, 0, IN)]
