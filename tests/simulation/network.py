"""Connections between spheres and control, in order each, and what lies at their two ends.

A frame takes its time; a connection may be cut anywhere, and what was on its way is lost from some point on. A path may
be cut off one way or both ways in silence: then whoever hears nothing for silence_s gives the connection up.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from control.door import Arrived, Heard, Left
from control.handshakes import Handshakes
from control.wire import decode_at_client

if TYPE_CHECKING:
    from tests.simulation.host import Host

CLIENT = b"client"
DELAYS = (0.0, 0.0, 0.0, 0.0, 0.0, 0.02, 0.05, 0.3)
"""In silence_s."""


class Pipe:
    """One direction: frames arrive in the order in which they were sent, each at its time."""

    def __init__(self, chance: random.Random, silence_s: float) -> None:
        self._chance = chance
        self._silence_s = silence_s
        self._frames: deque[tuple[float, bytes]] = deque()
        self.deaf_s = (0.0, -1.0)
        """Nothing comes through between these two moments."""

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, now_s: float, frame: bytes) -> None:
        at_s = now_s + self._chance.choice(DELAYS) * self._silence_s
        if self._frames:
            at_s = max(at_s, self._frames[-1][0])
        self._frames.append((at_s, frame))

    def take(self, now_s: float) -> bytes | None:
        if not self._frames or self._frames[0][0] > now_s or self.is_deaf(now_s):
            return None
        return self._frames.popleft()[1]

    def is_deaf(self, now_s: float) -> bool:
        return self.deaf_s[0] <= now_s < self.deaf_s[1]

    def gave_up(self, now_s: float) -> bool:
        """Whether the end that hears has waited for long enough."""
        return self.is_deaf(now_s) and now_s - self.deaf_s[0] > self._silence_s

    def lose(self, keep: int) -> None:
        while len(self._frames) > keep:
            self._frames.pop()

    def hurry(self) -> None:
        """What has come to the other machine is there at once."""
        self._frames = deque((0.0, frame) for _, frame in self._frames)


class Wire:
    """One connection. below, above: whether the sphere's end and control's end stand."""

    def __init__(self, identity: bytes, host: Host, chance: random.Random, silence_s: float) -> None:
        self.identity = identity
        self.host = host
        self.chance = chance
        self.up, self.down = Pipe(chance, silence_s), Pipe(chance, silence_s)
        self.below = self.above = True

    def cut(self) -> None:
        """Both ends close; some of what was on its way is lost."""
        for pipe in (self.up, self.down):
            pipe.lose(self.chance.randrange(len(pipe) + 1))
            pipe.deaf_s = (0.0, -1.0)
            pipe.hurry()
        self.below = self.above = False

    def fall_silent(self, now_s: float) -> None:
        """Close the sphere's end if it has heard nothing for too long, and an end whose other one has closed, once that
        can be heard."""
        if self.below and self.down.gave_up(now_s):
            self.below = False
        self.above = self.above and (self.below or self.up.is_deaf(now_s))
        self.below = self.below and (self.above or self.down.is_deaf(now_s))
        if not self.above and not self.below:
            self.cut()

    def hang_up_if_silent(self, now_s: float) -> None:
        """The same of control's end, where control misses heartbeats."""
        if self.above and self.up.gave_up(now_s):
            self.above = False
        self.fall_silent(now_s)


class Gate:
    """A control's door: what Door does with one socket for all, by identity; the newest connection of one has it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.wires: list[Wire] = []
        self._route: dict[bytes, Wire] = {}
        self._last: dict[bytes, Wire] = {}
        self.asked: deque[bytes] = deque()

    def connect(self, wire: Wire) -> None:
        self.wires.append(wire)
        self._route[wire.identity] = wire

    def receive(self) -> list[Heard]:
        heard: list[Heard] = []
        chance, now_s = self.host.chance, self.host.world.now_s
        while self.asked:
            heard.append(Arrived(CLIENT, self.asked.popleft(), True))
        for wire in list(self.wires):
            if not wire.above and chance.random() < 0.5:
                self._leave(wire, heard)
            for _ in range(chance.choice((0, 1, 2, 4, 8))):
                frame = wire.up.take(now_s)
                if frame is None:
                    break
                if wire.above:
                    self._last[wire.identity] = wire
                heard.append(Arrived(wire.identity, frame, wire.above))
            if not wire.above and not len(wire.up):
                self._leave(wire, heard)
                self.wires.remove(wire)
        return heard

    def _leave(self, wire: Wire, heard: list[Heard]) -> None:
        if self._last.get(wire.identity) is wire:
            del self._last[wire.identity]
            heard.append(Left(wire.identity))

    def strangers(self) -> dict[str, int]:
        return {}

    def cut_if_silent(self, identity: bytes) -> None:
        wire = self._last.get(identity)
        if wire is not None:
            wire.hang_up_if_silent(self.host.world.now_s)

    def send(self, identity: bytes, frame: bytes) -> bool:
        if identity == CLIENT:
            self.host.answers(decode_at_client(frame))
            return True
        wire = self._route.get(identity)
        if wire is None or not wire.above:
            return False
        wire.down.put(self.host.world.now_s, frame)
        return True


class Line:
    """A sphere's end, as spheres.line has it."""

    def __init__(self) -> None:
        self.connected = False
        self.wire: Wire | None = None
        self.now_s = 0.0
        self.most = 0
        self.handshakes = Handshakes(keyed=False, tries=1)  # nobody has keys here, and none fails
        self._late: deque[bytes] = deque()

    def ring(self) -> None:
        pass

    def hang_up(self) -> None:
        """The connection is gone; what had come before is still to be read."""
        wire = self.wire
        while wire is not None and (frame := wire.down.take(self.now_s)) is not None:
            self._late.append(frame)
        self.wire, self.connected = None, False

    def frames(self) -> Iterator[bytes]:
        while self._late:
            yield self._late.popleft()
        for _ in range(self.most):
            frame = self.wire.down.take(self.now_s) if self.wire is not None else None
            if frame is None:
                return
            yield frame

    def send(self, frame: bytes) -> bool:
        assert self.wire is not None
        if self.wire.below:
            self.wire.up.put(self.now_s, frame)
        return True
