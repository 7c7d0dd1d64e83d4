"""The line to control: one thread, one DEALER socket, and everything else asks that thread.

How a word travels
  1. `send` puts a message into a queue and wakes the thread; it never blocks, on no state of control.
  2. The thread says Hello whenever a connection has been made (again), then what is queued. While nothing is
     connected messages wait; beats don't, they tell the present and would only be stale.
  3. What control says is folded into `heard` (state.py) and whoever waits is woken.

Two heartbeats, because they fail differently. The thread sends Beat with what the sphere stands for; a GIL held for
seconds (a C extension) delays it. libzmq's own I/O thread, which knows no GIL, answers and sends ZMTP pings; those stop
only with the process. So a missing Beat says "stuck, perhaps", a broken connection says "gone or stopped".

The context is the link's own, so that `close` ends the I/O thread too and nothing is left. A Link belongs to the
process that made it: make it after a fork, not before.
"""

from __future__ import annotations

import re
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import msgspec
import psutil  # type: ignore[import-untyped]
import zmq
from zmq.utils.monitor import recv_monitor_message

from control.protocol import (
    Beat,
    Closed,
    Failed,
    FromSphere,
    Generation,
    Hello,
    Phase,
    Proof,
    Ready,
    StoreReply,
    StoreRequest,
)
from control.wire import MAX_FRAME_BYTES, decode_at_sphere, encode
from lightwatch.errors import LightwatchError, RunEnded

from .state import Heard, Standing, hear, move

T = TypeVar("T")

LINGER_MS = 1000
SAID_AGAIN = (Proof, Ready, Closed, Failed)
"""The newest of each is said again after a broken connection: it may have died with it, and control waits for it."""
BEAT_S = (0.05, 0.5)
"""A beat is sent every silence_s / 10, within these bounds."""


class AdmissionRefused(LightwatchError):
    """Control will not have this sphere; the sentence is control's."""


class ControlSilent(LightwatchError, TimeoutError):
    """Control said nothing, or not what was waited for, within the time given."""


class LinkBroken(LightwatchError, RuntimeError):
    """The link is closed, or its thread ended on an error of ours."""


class Link:
    """A sphere's line to control. All methods may be called from any thread.

    silence_s: after so many seconds without a sign the connection counts as broken, and is made anew.
    """

    def __init__(self, address: str, hello: Hello, silence_s: float) -> None:
        if (
            not re.fullmatch(r"tcp://([^:/\s]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", address)
            or int(address.rsplit(":", 1)[1]) > 65535
        ):
            raise ControlSilent(
                f"{address!r} is no address of a control process; one looks like tcp://127.0.0.1:5555 [LW006]"
            )
        self.address = address
        self._hello = hello
        self.path = hello.path
        self._beat_s = min(max(silence_s / 10, BEAT_S[0]), BEAT_S[1])
        self._process = psutil.Process()
        self._changed = threading.Condition()  # guards everything below; notified on every change of it
        self._heard = Heard()
        self._standing = Standing()
        self._queue: deque[bytes] = deque()
        self._replies: dict[int, StoreReply | None] = {}
        self._request = 0
        self._said: dict[type, bytes] = {}
        self._handshakes = 0
        self._interrupt: tuple[Callable[[], None], Generation] | None = None
        self._closing = False
        self._failure: str | None = None
        self._beats = 0
        self._beat_due = False
        self._connected = False
        self._context = zmq.Context(io_threads=1)
        self._woken, self._wake = socket.socketpair()
        self._socket, self._monitor = self._connect(address, silence_s)
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        heard = self._heard
        return f"Link({self.address}, sphere {heard.sphere}, generation {heard.generation}, {len(self._queue)} queued)"

    @property
    def heard(self) -> Heard:
        """The newest of what control has said: a frozen value, no lock needed."""
        return self._heard

    @property
    def standing(self) -> Standing:
        """What beats say now."""
        return self._standing

    def open(self, timeout_s: float) -> int:
        """Wait for admission; this sphere's id. Raises AdmissionRefused, ControlSilent, RunEnded."""
        sphere = self.wait(lambda heard: heard.sphere or None, timeout_s, "to Hello")
        self.stand(phase=Phase.ADMITTED)
        return sphere

    def send(self, message: FromSphere) -> None:
        """Hand over a message; it goes out in order, as soon as control is connected. Never blocks."""
        frame = encode(message)
        with self._changed:
            self._check_alive()
            self._queue.append(frame)
            if isinstance(message, SAID_AGAIN):
                self._said[type(message)] = frame
        self._ring()

    def stand(self, **fields: object) -> None:
        """Change what beats say: the fields of `Standing`. A new phase or failure is told at once, in turn.

        Raises StateError for a move of the phase that state.MOVES doesn't have.
        """
        with self._changed:
            new = msgspec.structs.replace(self._standing, **fields)
            move(self._standing.phase, new.phase)
            urgent = (new.phase, new.failed_in) != (self._standing.phase, self._standing.failed_in)
            self._standing = new
            self._beat_due |= urgent
        if urgent:
            self._ring()

    def wait(self, pick: Callable[[Heard], T | None], timeout_s: float, to: str = "") -> T:
        """Block until `pick(heard)` gives something, and return it.

        `pick` is asked first, so that one can wait for the End itself; then RunEnded if the run has ended,
        AdmissionRefused, LinkBroken, and ControlSilent once timeout_s is over.
        to: what we wait for an answer to, for the sentence.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            heard = self._heard
            found = pick(heard)
            if found is not None:
                return found
            if heard.refused is not None:
                raise AdmissionRefused(heard.refused.text)
            if heard.end is not None:
                raise RunEnded(heard.end.status, heard.end.reason)
            with self._changed:
                self._check_alive()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ControlSilent(self._silence(timeout_s, to))
                if self._heard is heard:
                    self._changed.wait(left)

    def request(self, message: StoreRequest, timeout_s: float) -> StoreReply:
        """Ask control's store and wait for the reply; `message.request` is numbered here.

        Raises RunEnded when the run ends or the message's generation is over meanwhile, for then no reply comes;
        ControlSilent after timeout_s.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._check_alive()
            self._request += 1
            number = self._request
            self._replies[number] = None
            self._queue.append(encode(msgspec.structs.replace(message, request=number)))
        self._ring()
        try:
            with self._changed:
                while (reply := self._replies[number]) is None:
                    self._check_alive()
                    if self._heard.ends(message.generation):
                        raise self._over(message.generation)
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise ControlSilent(self._silence(timeout_s, f"to {type(message).__name__}"))
                    self._changed.wait(left)
                return reply
        finally:
            with self._changed:
                del self._replies[number]

    def on_interrupt(self, callback: Callable[[], None] | None, after: Generation | None = None) -> None:
        """Call `callback` from the link's thread whenever a View newer than `after`, or an End, arrives; None: don't.

        after: default is the generation heard last. If what is heard is already past it, the call comes at once, from
        here. The callback must not block: beats wait for it.
        """
        with self._changed:
            start = self._heard.generation if after is None else after
            self._interrupt = None if callback is None else (callback, start)
            late = self._heard.ends(start)
        if callback is not None and late:
            callback()

    def close(self) -> None:
        """Send what is queued (at most a second), end the thread, close the sockets. Twice is once."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._ring()
        if self._thread is not threading.current_thread():
            self._thread.join(4 * LINGER_MS / 1000)

    # ------------------------------------------------------------ under the lock

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise LinkBroken(f"the link to control at {self.address} broke: {self._failure} [LW901]")
        if self._closing:
            raise LinkBroken(f"the link to control at {self.address} is closed [LW901]")

    def _silence(self, timeout_s: float, to: str) -> str:
        state = "connected, but without the answer" if self._connected else "no connection"
        return (
            f"control at {self.address} did not answer{' ' + to if to else ''} within {timeout_s:g} s ({state}); "
            "check that it runs, and that the address is its own [LW501]"
        )

    def _over(self, generation: Generation) -> RunEnded:
        if self._heard.end is not None:
            return RunEnded(self._heard.end.status, self._heard.end.reason)
        return RunEnded("superseded", f"generation {generation} is over, {self._heard.generation} was called")

    def _beat(self) -> Beat:
        self._beats += 1
        standing = msgspec.structs.asdict(self._standing)
        if standing["seen"] is None:
            standing["seen"] = self._heard.seen
        return Beat(
            **standing,
            number=self._beats,
            echo=self._heard.tick,
            rss_bytes=self._process.memory_info().rss,
            cpu_s=time.process_time(),
        )

    # ------------------------------------------------------------ the thread

    def _connect(self, address: str, silence_s: float) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        dealer = self._context.socket(zmq.DEALER)
        silence_ms = max(int(silence_s * 1000), 10)
        dealer.setsockopt(zmq.ROUTING_ID, uuid.uuid4().bytes)  # the same after a broken connection
        dealer.setsockopt(zmq.LINGER, LINGER_MS)
        dealer.setsockopt(zmq.IPV6, int("[" in address))
        dealer.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        dealer.setsockopt(zmq.HEARTBEAT_IVL, max(silence_ms // 5, 1))
        dealer.setsockopt(zmq.HEARTBEAT_TIMEOUT, silence_ms)
        dealer.setsockopt(zmq.HEARTBEAT_TTL, silence_ms)
        dealer.setsockopt(zmq.RECONNECT_IVL, 50)
        dealer.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        dealer.connect(address)
        return dealer, monitor

    def _ring(self) -> None:
        try:
            self._wake.send(b"x", socket.MSG_DONTWAIT)
        except (BlockingIOError, OSError):  # it is full: the thread is about to look anyway; or closed: nobody will
            pass

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # ours: told to whoever uses the link next, instead of a silent end
            with self._changed:
                self._failure = f"{type(error).__name__}: {error}"
                self._changed.notify_all()
        finally:
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(LINGER_MS if self._connected else 0)
            self._context.term()
            self._woken.close()
            self._wake.close()

    def _serve(self) -> None:
        poller = zmq.Poller()
        for source in (self._socket, self._monitor, self._woken):
            poller.register(source, zmq.POLLIN)
        next_beat = time.monotonic()
        end: float | None = None
        while True:
            now = time.monotonic()
            if self._closing:
                end = now + LINGER_MS / 1000 if end is None else end
                if now >= end or not self._queue:
                    return
            if now >= next_beat:
                next_beat = now + self._beat_s
                self._beat_due = True
            ready = dict(poller.poll(int((next_beat - now) * 1000) + 1))
            if self._woken.fileno() in ready:
                self._woken.recv(4096)
            if self._monitor in ready:
                self._watch_connection()
            if self._socket in ready:
                self._receive()
            self._flush()

    def _watch_connection(self) -> None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if self._connected:
                hello = msgspec.structs.replace(self._hello, sphere=self._heard.sphere)
                self._socket.send(encode(hello), zmq.NOBLOCK)
                self._handshakes += 1
                if self._handshakes > 1:
                    with self._changed:
                        self._queue.extendleft(reversed(self._said.values()))

    def _receive(self) -> None:
        interrupt = False
        with self._changed:
            before = self._heard
            while True:
                try:
                    frame = self._socket.recv(zmq.NOBLOCK)
                except zmq.Again:
                    break
                message = decode_at_sphere(frame)
                if isinstance(message, StoreReply):
                    if message.request in self._replies:
                        self._replies[message.request] = message
                else:
                    self._heard = hear(self._heard, message)
            heard = self._heard
            newer = heard.generation > before.generation or (heard.end is not None and before.end is None)
            if newer and self._interrupt is not None:
                interrupt = heard.ends(self._interrupt[1])
            callback = self._interrupt[0] if self._interrupt else None
            self._changed.notify_all()
        if interrupt and callback is not None:
            callback()

    def _flush(self) -> None:
        while self._connected:
            with self._changed:
                frame = self._queue.popleft() if self._queue else self._due_beat()
            if frame is None:
                return
            try:
                self._socket.send(frame, zmq.NOBLOCK)
            except zmq.Again:  # control reads too slowly: the rest waits
                with self._changed:
                    self._queue.appendleft(frame)
                return

    def _due_beat(self) -> bytes | None:
        """A beat, if one is due: made only when nothing is queued, so that it never overtakes what it builds on."""
        if not self._beat_due or not self._heard.sphere:
            return None
        self._beat_due = False
        return encode(self._beat())
