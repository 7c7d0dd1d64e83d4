"""The one socket of control: frames in and out by identity, and who has gone.

A ROUTER says nothing when a peer goes. But each frame knows the descriptor it came through, and the socket's monitor
says which descriptor closed: so a killed sphere is known by name within milliseconds. Descriptors are used again, so
the monitor's events are read before a frame's descriptor is believed.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import TypeAlias

import zmq

from .errors import BindError
from .wire import MAX_FRAME_BYTES

BATCH = 512
"""Frames taken at once before anything else gets a turn."""

QUEUED = 4_096
"""Messages kept for a peer that does not read; what is over that is dropped (a level is said again)."""

LINGER_MS = 500

OWN_PORTS = range(20_000, 32_000)
"""Below those that Linux and others give to who connects."""
OWN_TRIES = 50

EVENT = struct.Struct("=hi")
"""A monitor's event and its descriptor. pyzmq's own parser imports asyncio, a fifth of the time to start."""


@dataclass(frozen=True)
class Arrived:
    """A frame. live: the connection it came through still stands."""

    identity: bytes
    frame: bytes
    live: bool


@dataclass(frozen=True)
class Left:
    """The connection that last spoke as `identity` closed."""

    identity: bytes


Heard: TypeAlias = Arrived | Left


class Door:
    """Bound when made; close it. Not thread-safe. Raises BindError."""

    def __init__(self, listen: str, silence_s: float) -> None:
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        silence_ms = int(silence_s * 1000)
        options = {
            zmq.ROUTER_MANDATORY: 1,
            zmq.ROUTER_HANDOVER: 1,
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
        self._monitor = self._router.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._live: set[int] = set()
        self._identity_of: dict[int, bytes] = {}
        self._descriptor_of: dict[bytes, int] = {}
        self._poller = zmq.Poller()
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
        for _ in range(BATCH):
            try:
                parts = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._read_monitor(heard)
            if len(parts) == 2:
                identity = parts[0].bytes
                heard.append(Arrived(identity, parts[1].bytes, self._learn(identity, parts[1])))
        self._read_monitor(heard)
        return heard

    def _learn(self, identity: bytes, frame: zmq.Frame) -> bool:
        try:
            descriptor = int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:  # of a stranger that libzmq takes for a peer of before 2012: no message of ours follows
            return False
        if descriptor not in self._live:
            return False
        self._identity_of[descriptor] = identity
        self._descriptor_of[identity] = descriptor
        return True

    def _read_monitor(self, heard: list[Heard]) -> None:
        while True:
            try:
                frames = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            event, descriptor = EVENT.unpack(frames[0])
            if event == zmq.EVENT_ACCEPTED:
                self._live.add(descriptor)
            elif event == zmq.EVENT_DISCONNECTED:
                self._live.discard(descriptor)
                identity = self._identity_of.pop(descriptor, None)
                if identity is not None and self._descriptor_of.get(identity) == descriptor:
                    del self._descriptor_of[identity]
                    heard.append(Left(identity))

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
        self._router.close(LINGER_MS)
        self._context.term()
