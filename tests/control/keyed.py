"""A real control with keys, and those who knock at it: spheres, clients, and what has no key."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import zmq

from control.keyfile import KeyFile, found_key
from control.keys import Keys
from control.process import ControlProcess
from control.roles import Role
from tests.control.fakes import FakeSphere

MB = 1 << 20


class Keyed:
    """Two spheres are expected, at 0 and 1. All that it makes is closed with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = Keys.made(folder)
        self.process = ControlProcess(folder, run_id="run", tree="2", silence_s=2.0)
        self._open = ExitStack()
        self.rss_before = 0
        self.computing: list[FakeSphere] = []

    @property
    def address(self) -> str:
        return self.process.address

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def own(self, role: str = "sphere") -> KeyFile:
        """The key of the run's own folder."""
        key = found_key(self.folder, role)
        assert key is not None
        return key

    def key(self, name: str, role: Role = Role.SPHERE) -> KeyFile:
        """Another machine's, allowed from now on."""
        key = self.keys.new(name, role)
        key.write(self.folder / f"{name}.key")
        return key

    def sphere(self, path: str, key: KeyFile | None) -> FakeSphere:
        sphere = FakeSphere(self.address, path, key=key)
        self._open.callback(sphere.leave)
        return sphere

    def spheres(self, *paths: str) -> list[FakeSphere]:
        """Of the folder's own machine; for `begun`."""
        return [self.sphere(path, self.own()) for path in paths]

    def knock(self, source: str = "127.0.0.1", timeout_s: float = 5.0) -> socket.socket:
        """A connection that knows nothing, from this address."""
        stranger = socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s, source_address=(source, 0))
        self._open.enter_context(stranger)
        return stranger

    @contextmanager
    def beating(self) -> Iterator[None]:
        """The two say that they are there, all the while."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(0.3):
                for sphere in self.computing:
                    sphere.beat()

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @property
    def rss(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    @property
    def log(self) -> list[str]:
        return self.process.log.read_text(encoding="utf-8").splitlines()

    def close(self) -> None:
        self._open.close()
        self.process.close()


@contextmanager
def monitored(sphere: FakeSphere) -> Iterator[Callable[[int, float], bool]]:
    """Whether an event of its socket comes within so many seconds."""
    monitor = sphere.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    seen: set[int] = set()

    def comes(event: int, within_s: float) -> bool:
        while event not in seen and monitor.poll(int(within_s * 1000)):
            seen.add(struct.unpack("=hi", monitor.recv_multipart()[0])[0])
        return event in seen

    try:
        yield comes
    finally:
        sphere.socket.disable_monitor()
        monitor.close(0)
