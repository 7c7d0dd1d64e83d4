"""A control process reduced to its socket: a ROUTER in a thread that answers as the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TypeVar

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from control.protocol import Hello, ToControl, ToSphere, Welcome
from control.wire import decode_at_control, encode

M = TypeVar("M")
Answers = Callable[[ToControl], Iterable[ToSphere]]


def welcome(message: ToControl) -> list[ToSphere]:
    """Admit everybody as sphere 7."""
    return [Welcome(sphere=7, incarnation=1)] if isinstance(message, Hello) else []


class FakeControl:
    """`received` holds all that came, in order; `events` the monitor's. `say` sends to the peer heard last."""

    def __init__(self, answers: Answers = welcome, port: int = 0, host: str = "127.0.0.1") -> None:
        self.received: list[ToControl] = []
        self.events: list[int] = []
        self._answers = answers
        self._changed = threading.Condition()
        self._outbox: list[bytes] = []
        self._peers: list[bytes] = []
        self._closing = False
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._router.setsockopt(zmq.LINGER, 0)
        self._monitor = self._router.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._router.setsockopt(zmq.IPV6, int("[" in host))
        self._router.bind(f"tcp://{host}:{port or '*'}")
        self.address = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self.port = int(self.address.rsplit(":", 1)[1])
        self._thread = threading.Thread(target=self._serve, name="fake control")
        self._thread.start()

    def __enter__(self) -> FakeControl:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def say(self, *messages: msgspec.Struct) -> None:
        """Send to the peer that spoke last."""
        with self._changed:
            self._outbox += [encode(message) for message in messages]

    def say_bytes(self, frame: bytes) -> None:
        with self._changed:
            self._outbox.append(frame)

    def until(self, holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait for a condition on `received` or `events`."""
        with self._changed:
            assert self._changed.wait_for(holds, timeout_s), f"not in {timeout_s} s; received {self.received[-5:]}"

    def of(self, kind: type[M]) -> list[M]:
        """What was received of one class."""
        with self._changed:
            return [message for message in self.received if isinstance(message, kind)]

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        self._router.disable_monitor()
        self._monitor.close(0)
        self._router.close(0)
        self._context.term()

    def _serve(self) -> None:
        while not self._closing:
            if self._router.poll(5):
                identity, frame = self._router.recv_multipart()
                message = decode_at_control(frame)
                replies = [encode(reply) for reply in self._answers(message)]
                for reply in replies:
                    self._router.send_multipart([identity, reply])
                with self._changed:
                    self._peers = [identity]
                    self.received.append(message)
                    self._changed.notify_all()
            while self._monitor.poll(0):
                event = recv_monitor_message(self._monitor)["event"]
                with self._changed:
                    self.events.append(event)
                    self._changed.notify_all()
            with self._changed:
                frames, self._outbox = (self._outbox, []) if self._peers else ([], self._outbox)
            for frame in frames:
                self._router.send_multipart([self._peers[0], frame])
