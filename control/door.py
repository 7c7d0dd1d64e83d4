"""The one socket of control: frames in and out by identity, and who has gone.

A ROUTER says nothing when a peer goes. But each frame knows the descriptor it came through, and the socket's monitor
says which descriptor closed: so a killed sphere is known by name within milliseconds. Descriptors are used again, so
the monitor's events are read before a frame's descriptor is believed.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import zmq

from .connections import Connections
from .errors import BindError
from .keyfile import Pair
from .wire import MAX_FRAME_BYTES
from .zap import Gate

BATCH = 2_048
"""Frames taken at once before anything else gets a turn."""

QUEUED = 4_096
"""Messages kept for a peer that does not read; what is over that is dropped (a level is said again)."""

LINGER_MS = 500

OWN_PORTS = range(20_000, 32_000)
"""Below those that Linux and others give to who connects."""
OWN_TRIES = 50

WRONG_KEY, NO_KEY, SILENT = "wrong key", "no key", "silent"
"""What strangers do."""

EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
EVENT = struct.Struct("=hi")
"""A monitor's event and its descriptor. pyzmq's own parser imports asyncio, a fifth of the time to start."""


@dataclass(frozen=True)
class Arrived:
    """A frame. live: the connection it came through still stands."""

    identity: bytes
    frame: bytes
    live: bool
    key: str = ""
    """The public key that its connection has proved; empty in a run without keys."""


@dataclass(frozen=True)
class Left:
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
        silence_ms = int(silence_s * 1000)
        options = {
            zmq.ROUTER_MANDATORY: 1,
            zmq.ROUTER_HANDOVER: int(pair is None),
            zmq.HEARTBEAT_IVL: max(silence_ms // 5, 1),
            zmq.HEARTBEAT_TIMEOUT: silence_ms,
            zmq.HEARTBEAT_TTL: silence_ms,
            zmq.HANDSHAKE_IVL: 10_000,
            zmq.MAXMSGSIZE: MAX_FRAME_BYTES,
            zmq.SNDHWM: QUEUED,
            zmq.LINGER: LINGER_MS,
            zmq.IPV6: int("[" in listen),
        }
        for option, value in options.items():
            self._router.setsockopt(option, value)
        self._monitor = self._router.get_monitor_socket(EVENTS)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._connections = Connections()
        self._poller = zmq.Poller()
        if self._gate is not None and pair is not None:
            self._gate.guard(self._router, pair)
            self._poller.register(self._gate.socket, zmq.POLLIN)
        self._poller.register(self._router, zmq.POLLIN)
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
        self._poller.register(descriptor, zmq.POLLIN)

    def wait(self, timeout_s: float) -> set[int]:
        """Until something is there, or the time is over. Returns the watched descriptors that are ready."""
        ready = self._poller.poll(max(int(timeout_s * 1000), 0))
        return {thing for thing, _ in ready if isinstance(thing, int)}

    def receive(self) -> list[Heard]:
        """What has come in, in order, at most BATCH frames. Never blocks."""
        heard: list[Heard] = []
        if self._gate is not None:
            self._gate.answer()
        for _ in range(BATCH):
            try:
                parts = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._read_monitor(heard)
            if len(parts) == 2:
                identity = parts[0].bytes
                key = str(parts[1].get("User-Id")) if self._gate is not None else ""
                heard.append(Arrived(identity, parts[1].bytes, self._learn(identity, parts[1]), key))
        self._read_monitor(heard)
        for descriptor in self._connections.too_many(time.monotonic()):
            self._strangers[SILENT] += 1
            shut(descriptor)
        return heard

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
                self._connections.opened(descriptor, time.monotonic())
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

    def cut(self, identity: bytes) -> None:
        """Close the connection that last spoke as this one, if it stands; Left follows."""
        descriptor = self._connections.descriptor_of.get(identity)
        if descriptor is not None:
            shut(descriptor)

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
        if self._gate is not None:
            self._gate.close()
        self._router.close(LINGER_MS)
        self._context.term()


def shut(descriptor: int) -> None:
    """Break a connection of libzmq's, for both sides: it sees that and closes it. Should the number be another's by
    now, that one is made anew."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has closed already
