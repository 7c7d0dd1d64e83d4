"""The one socket of control: frames in and out by identity, and who has gone.

A ROUTER says nothing when a peer goes. But each frame knows the descriptor it came through, and the socket's monitor
says which descriptor closed: so a killed sphere is known by name within milliseconds. Descriptors are used again, so
the monitor's events are read before a frame's descriptor is believed.

What strangers do wakes nobody but the door, and in a run with keys who comes in vain too often is let in no more.
"""

from __future__ import annotations

import math
import random
import select
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import msgspec
import zmq

from .connections import Connections
from .descriptors import TELLS_SILENCE, caller, shut, silent_s
from .errors import BindError
from .keyfile import Pair
from .knocks import Knocks, Shut
from .porch import Porch
from .wire import MAX_FRAME_BYTES
from .zap import Gate

BATCH = 2_048
"""Frames taken at once before anything else gets a turn."""

QUEUED = 4_096
"""Messages kept for a peer that does not read; what is over that is dropped (a level is said again)."""

UNLIMITED = 0
"""Messages that wait for us: a connection is never stopped because there are many. libzmq (4.3.5) ends the whole
process if one that is stopped breaks and a heartbeat, or the answer to one, is due (tests/control/test_broken_flood.py
does it). Who floods is cut off instead (guard.py)."""

IN_KERNEL_BYTES = 64 << 10
"""What has come of one peer and libzmq has not read: it reads all of that, even if the connection was cut."""

DEAF_TO_MOST = 1_024
"""Names of connections that were cut; none is given twice."""

BACKLOG = 4_096
"""Connections that may wait to be accepted. Of a thousand that come at once, those over libzmq's hundred would try
again after 1, 3, 7 seconds."""

KEEP_ALIVE = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 60,
    zmq.TCP_KEEPALIVE_INTVL: 10,
    zmq.TCP_KEEPALIVE_CNT: 6,
    zmq.TCP_MAXRT: 120_000,
}
"""The kernel gives up, after two minutes, a machine that is gone without a word, whether it is spoken to or not. For
clients: of spheres more is known."""

LINGER_MS = 500

OWN_PORTS = range(20_000, 32_000)
"""Below those that Linux and others give to who connects."""
OWN_TRIES = 50

REST_S = 0.005
"""From one look at what strangers do to the next: many of them are looked at together."""

WRONG_KEY, NO_KEY, SILENT, TOO_OFTEN = "wrong key", "no key", "silent", "too often"
"""What strangers do."""

EVENTS = zmq.EVENT_LISTENING | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
EVENT = struct.Struct("=hi")
"""A monitor's event and its descriptor. pyzmq's own parser imports asyncio, a fifth of the time to start."""


class Arrived(msgspec.Struct, frozen=True):
    """A frame. live: the connection it came through still stands."""

    identity: bytes
    frame: bytes
    live: bool
    key: str = ""
    """The public key that its connection has proved; empty in a run without keys."""


class Left(msgspec.Struct, frozen=True):
    """The connection that last spoke as `identity` closed."""

    identity: bytes


Heard: TypeAlias = Arrived | Left


class Door:
    """Bound when made; close it. Not thread-safe. Raises BindError.

    pair: control's own, in a run with keys; then nobody comes in whom `may_enter` does not know by public key, a
    connection's name is given by us, and no other connection can take it over.
    """

    def __init__(self, listen: str, silence_s: float, pair: Pair | None = None) -> None:
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self.may_enter: Callable[[str], bool] = lambda key: False
        self._gate = Gate(self._context, lambda key: self.may_enter(key)) if pair is not None else None
        self._strangers: Counter[str] = Counter()
        self._silence_s, silence_ms = silence_s, int(silence_s * 1000)
        options = {
            zmq.ROUTER_MANDATORY: 1,
            zmq.ROUTER_HANDOVER: int(pair is None),
            zmq.HANDSHAKE_IVL: 10_000,
            zmq.BACKLOG: BACKLOG,
            zmq.MAXMSGSIZE: MAX_FRAME_BYTES,
            zmq.SNDHWM: QUEUED,
            zmq.RCVHWM: UNLIMITED,
            zmq.RCVBUF: IN_KERNEL_BYTES,
            zmq.LINGER: LINGER_MS,
            zmq.IPV6: int("[" in listen),
            **KEEP_ALIVE,
        }
        if not TELLS_SILENCE:
            options |= {zmq.HEARTBEAT_IVL: max(silence_ms // 5, 1), zmq.HEARTBEAT_TIMEOUT: silence_ms}
        for option, value in options.items():
            self._router.setsockopt(option, value)
        self._monitor = self._router.get_monitor_socket(EVENTS)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._news = select.poll()
        """Whether the monitor has anything, asked a tenth as dear as of libzmq. Only right once all was read: then what
        comes wakes its descriptor."""
        self._news.register(self._monitor.FD, select.POLLIN)
        self._connections = Connections()
        self._knocks = Knocks()
        self._shut = Shut()
        self._porch: Porch | None = None
        self._gone: list[Heard] = []
        self._deaf_to: dict[bytes, None] = {}
        self._poller, self._inside = zmq.Poller(), zmq.Poller()
        if self._gate is not None and pair is not None:
            self._gate.guard(self._router, pair)
            self._poller.register(self._gate.socket, zmq.POLLIN)
        for poller in (self._poller, self._inside):
            poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            self._bind(listen)
        except zmq.ZMQError as error:
            self.close()
            why = "the port is in use" if error.errno == zmq.EADDRINUSE else str(error)
            raise BindError(f"control can't listen at {listen}: {why}; give another --listen [LW504]") from None
        self.address: str = self._router.getsockopt_string(zmq.LAST_ENDPOINT)

    def _bind(self, listen: str) -> None:
        """A port of our own choice is none that the system gives to who connects: while control is dead, a sphere that
        tries again might be given control's, and on one machine be connected to itself."""
        for port in random.sample(OWN_PORTS, OWN_TRIES) if listen.endswith(":*") else ():
            try:
                self._router.bind(f"{listen[:-1]}{port}")
                return
            except zmq.ZMQError as error:
                if error.errno != zmq.EADDRINUSE:
                    raise
        self._router.bind(listen)

    def watch(self, descriptor: int) -> None:
        """Wake `wait` for this descriptor too (the launcher's pipe)."""
        for poller in (self._poller, self._inside):
            poller.register(descriptor, zmq.POLLIN)

    def wait(self, timeout_s: float) -> set[int]:
        """Until there is something to receive, or the time is over. Returns the watched descriptors that are ready."""
        until_s = time.monotonic() + timeout_s
        strangers = {self._monitor, self._gate.socket if self._gate is not None else None}
        while True:
            ready = self._polled(self._poller, until_s)
            self._look_after()
            alone = ready <= strangers and not self._gone
            if alone and ready:
                ready = self._polled(self._inside, min(until_s, time.monotonic() + REST_S))
            if ready or not alone or time.monotonic() >= until_s:
                return {thing for thing in ready if isinstance(thing, int)}

    @staticmethod
    def _polled(poller: zmq.Poller, until_s: float) -> set[object]:
        left_ms = (until_s - time.monotonic()) * 1000
        return {thing for thing, _ in poller.poll(max(math.ceil(left_ms), 0))}

    def receive(self) -> list[Heard]:
        """What has come in, in order, at most BATCH frames. Never blocks."""
        self._look_after()
        heard, self._gone = self._gone, []
        for _ in range(BATCH):
            try:
                identity = self._router.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            if identity in self._deaf_to:
                self._router.recv_multipart()  # by copying, a third of the time: there may be very many
                continue
            frame = self._router.recv(copy=False)
            if self._news.poll(0):
                self._read_monitor(heard)
            if frame.more:
                self._drop_the_rest()
            else:
                key = str(frame.get("User-Id")) if self._gate is not None else ""
                heard.append(Arrived(identity, frame.bytes, self._learn(identity, frame), key))
        self._read_monitor(heard)
        return heard

    def _look_after(self) -> None:
        """Those who come, and those who are strangers. Who has left is told at the next `receive`."""
        if self._gate is not None:
            self._gate.answer()
        self._read_monitor(self._gone)
        now_s = time.monotonic()
        for descriptor in self._connections.too_many(now_s):
            self._strangers[SILENT] += 1
            shut(descriptor)
        for address, count in self._connections.in_vain().items():
            if any(self._knocks.in_vain(address, now_s) for _ in range(count)):
                self._strangers[TOO_OFTEN] += 1
        wanted = self._knocks.shut(now_s)
        if wanted != self._shut and self._porch is not None and self._gate is not None:
            self._shut = wanted
            self._porch.shut(wanted.barred, self._connections.heard, thinned=wanted.thinned)

    def _drop_the_rest(self) -> None:
        """A message of more frames is none of ours."""
        while self._router.recv(copy=False).more:
            pass

    def _learn(self, identity: bytes, frame: zmq.Frame) -> bool:
        try:
            descriptor = int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:  # of a stranger that libzmq takes for a peer of before 2012: no message of ours follows
            return False
        return self._connections.spoke(descriptor, identity)

    def _read_monitor(self, heard: list[Heard]) -> None:
        while True:
            try:
                frames = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            event, descriptor = EVENT.unpack(frames[0])
            if event == zmq.EVENT_ACCEPTED:
                self._connections.opened(descriptor, time.monotonic(), caller(descriptor))
            elif event == zmq.EVENT_LISTENING:
                self._porch = Porch(descriptor)
            elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self._strangers[NO_KEY] += 1
            elif (identity := self._connections.closed(descriptor)) is not None:
                heard.append(Left(identity))

    def strangers(self) -> dict[str, int]:
        """What they have done since this was asked last."""
        if self._gate is not None and self._gate.refused:
            self._strangers[WRONG_KEY] += self._gate.refused
            self._gate.refused = 0
        done, self._strangers = dict(self._strangers), Counter()
        return done

    @property
    def shut_out(self) -> str:
        """Whom the door is shut to now, for a sentence."""
        some = sorted(self._shut.barred)[:3] + (["most of those that are not known"] if self._shut.thinned else [])
        more = len(self._shut.barred) - 3
        return ", ".join(some) + (f" and {more} more" if more > 0 else "")

    def in_vain(self, identity: bytes, times: int = 1) -> None:
        """What this one said counts for nothing, as if it had knocked so many times and said nothing."""
        self._connections.spoke_in_vain(identity, times)

    def cut_if_silent(self, identity: bytes) -> None:
        """Close the connection that last spoke as this one if nothing has come over it, not even a heartbeat of
        libzmq's, for `silence_s`; Left follows."""
        descriptor = self._connections.descriptor_of.get(identity)
        if descriptor is not None and silent_s(descriptor) > self._silence_s:
            shut(descriptor)

    def cut(self, identity: bytes) -> None:
        """Close the connection that last spoke as this one, if it stands; Left follows. What it has said and nobody has
        heard yet is never heard."""
        descriptor = self._connections.descriptor_of.get(identity)
        if descriptor is not None:
            shut(descriptor)
            self._deaf_to[identity] = None
            if len(self._deaf_to) > DEAF_TO_MOST:
                del self._deaf_to[next(iter(self._deaf_to))]

    def send(self, identity: bytes, frame: bytes) -> bool:
        """Never blocks. False: this peer is gone, or reads nothing, and the frame was dropped."""
        try:
            self._router.send_multipart([identity, frame], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True

    def close(self) -> None:
        """Give what is queued LINGER_MS to leave, then close everything."""
        self._router.disable_monitor()
        self._monitor.close(0)
        for each in (self._gate, self._porch):
            if each is not None:
                each.close()
        self._router.close(LINGER_MS)
        self._context.term()
