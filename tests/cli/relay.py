"""`python -m tests.cli.relay FROM TO PORT`: joins each connection to FROM:PORT with one to TO:PORT; ends with stdin.

Control listens on loopback only; this is how spheres of another host come to it over a link that can be cut.
"""

from __future__ import annotations

import asyncio
import os
import sys

from scripts.benchmarks.forwarder import copy


async def relay(here: str, there: str, port: int) -> None:
    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(there, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    await asyncio.start_server(join, here, port)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, lambda: None if os.read(0, 1024) else ended.set())
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(relay(sys.argv[1], sys.argv[2], int(sys.argv[3])))
