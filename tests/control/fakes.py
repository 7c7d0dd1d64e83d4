"""A sphere without torch: it says what a sphere says, over a real socket, one message at a time."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec
import zmq

from control.errors import ControlError
from control.keyfile import KeyFile, lock
from control.protocol import (
    Beat,
    Closed,
    End,
    Generation,
    Go,
    Hello,
    Orders,
    Phase,
    Position,
    Proof,
    Ready,
    Refused,
    Row,
    Tick,
    View,
    Wanted,
    Welcome,
)
from control.wire import decode_at_sphere, encode

FINGERPRINT = {"lightwatch": "0", "torch": "2", "threads": "1", "reduction": "exact", "probe": "abc"}
DEADLINE_S = 10.0

M = TypeVar("M", bound=msgspec.Struct)


class FakeSphere:
    """One DEALER; `expect(Class)` waits for the next message of that class and keeps the others' facts."""

    def __init__(self, address: str, path: str, run_id: str = "run", key: KeyFile | None = None) -> None:
        self.path = path
        self.run_id = run_id
        self.generation: Generation = (0, 0)
        self.number = 0
        self.orders: list[Wanted] = []
        self.ended: End | None = None
        self.ticks = 0
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 200)
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, 50)  # a sphere's connection is never silent while its process lives
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 60_000)  # else libzmq takes 50 here too
        lock(self.socket, key)
        self.socket.connect(address)

    def say(self, message: msgspec.Struct) -> None:
        self.socket.send(encode(message))

    def expect(self, kind: type[M]) -> M:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if self.socket.poll(50):
                message = decode_at_sphere(self.socket.recv())
                self._note(message)
                if isinstance(message, kind):
                    return message
        raise AssertionError(f"{self.path} heard no {kind.__name__} within {DEADLINE_S} s")

    def wait(self, done: Callable[[FakeSphere], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not done(self):
            assert time.monotonic() < deadline, f"{self.path} waited in vain"
            if self.socket.poll(50):
                self._note(decode_at_sphere(self.socket.recv()))

    def expect_no(self, *kinds: type[msgspec.Struct]) -> bool:
        """Whether nothing of these kinds is among what has arrived."""
        while self.socket.poll(0):
            if isinstance(decode_at_sphere(self.socket.recv()), kinds):
                return False
        return True

    def _note(self, message: msgspec.Struct) -> None:
        match message:
            case View():
                self.generation = message.generation
                self.orders = list(message.orders)
            case Orders():
                self.orders += [order for order in message.orders if order.number > len(self.orders)]
            case End():
                self.ended = message
            case Tick():
                self.ticks += 1
            case _:
                pass

    # ---------------------------------------------------------------- what a sphere does

    def hello(self, pid: int | None = None, **fields: object) -> None:
        hello = Hello(run_id=self.run_id, path=self.path, pid=pid or os.getpid(), host=socket.gethostname())
        self.say(msgspec.structs.replace(hello, **fields))

    def join(self, *, micro_batches: int = 8, max_steps: int = 3, **fingerprint: str) -> int:
        self.hello()
        sphere = self.expect(Welcome).sphere
        self.say(Proof(fingerprint=FINGERPRINT | fingerprint, micro_batches=micro_batches, max_steps=max_steps))
        return sphere

    def refused(self) -> str:
        return self.expect(Refused).text

    def prove(self, micro_batches: int = 8, max_steps: int = 3) -> None:
        self.say(Proof(fingerprint=FINGERPRINT, micro_batches=micro_batches, max_steps=max_steps))

    def ready(self, digest: str | None = "d0", version: int = 0, **fields: object) -> None:
        self.expect(View)
        self.ready_now(digest, version, **fields)

    def ready_now(self, digest: str | None = "d0", version: int = 0, **fields: object) -> None:
        """To the View that was heard last."""
        self.say(msgspec.structs.replace(self.held(digest), position=Position(version=version), **fields))

    def held(self, digest: str | None) -> Ready:
        """What it answers at version 0."""
        return Ready(generation=self.generation, position=Position(), holds_state=True, digest=digest)

    def go(self) -> Go:
        return self.expect(Go)

    def beat(self, phase: Phase = Phase.COMPUTING, version: int = 0, **fields: object) -> None:
        self.number += 1
        beat = Beat(
            generation=self.generation,
            number=self.number,
            phase=phase,
            position=Position(version=version),
            seen=len(self.orders),
        )
        self.say(msgspec.structs.replace(beat, **fields))

    def row(self, version: int, check: int = 7, **fields: object) -> None:
        row = Row(
            generation=self.generation,
            version=version,
            loss=1.0 / version,
            learning_rate=1e-3,
            weight=64,
            check=check + version,
            seconds={"step": 0.5},
        )
        self.say(msgspec.structs.replace(row, **fields))

    def closed(self, version: int, digest: str = "end", reason: str = "completed") -> None:
        self.say(Closed(generation=self.generation, version=version, digest=digest, reason=reason))

    def leave(self) -> None:
        """Close the connection, as the death of the process would."""
        if not self.socket.closed:
            self.socket.close()
            self.context.term()


Spheres = Callable[..., list[FakeSphere]]


def begun(make: Spheres, *paths: str) -> list[FakeSphere]:
    """Spheres that have been told to go."""
    group = make(*paths)
    for sphere in group:
        sphere.join()
    for sphere in group:
        sphere.ready()
    for sphere in group:
        sphere.go()
        sphere.beat()
    return group


def until(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


def background(do: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run a blocking call beside the test; its result or its error."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(do())
        except ControlError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results
