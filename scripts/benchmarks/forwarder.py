"""`python -m scripts.benchmarks.forwarder PORT NAMESPACE`: a bridge to another host's loopback, beside the link.

Control listens on loopback only. This listens on this host's 127.0.0.1:PORT and joins each connection with one to
127.0.0.1:PORT in the network namespace named: control's traffic then doesn't cross the link that is measured.
Ends with its stdin.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys

CLONE_NEWNET = 0x40000000


def move_into(namespace: str) -> None:
    """Sockets made from here on belong to that namespace; those that are there stay where they are."""
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.setns(descriptor, CLONE_NEWNET)
    os.close(descriptor)
    if failed:
        raise OSError(ctypes.get_errno(), f"{namespace} can't be entered")


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All that is read, until either end is gone."""
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
    writer.close()


async def forward(port: int, namespace: str) -> None:
    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    await asyncio.start_server(join, "127.0.0.1", port)
    move_into(namespace)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, lambda: None if os.read(0, 1024) else ended.set())
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(forward(int(sys.argv[1]), sys.argv[2]))
