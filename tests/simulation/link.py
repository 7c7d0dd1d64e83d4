"""A sphere's link to control: the shipped one, with its thread's turns and its socket taken from the simulation."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import msgspec

from control.protocol import Dial, Go, Hello, Orders, StoreReply, StoreRequest, Tick, ToSphere, View, Welcome
from control.wire import encode
from spheres.link import Link
from spheres.outbox import Outbox
from spheres.state import Heard, Standing
from tests.simulation import laws
from tests.simulation.network import Line, Wire

if TYPE_CHECKING:
    from tests.simulation.process import Process


class Condition(nullcontext[None]):
    """There is one thread, so nobody waits."""

    def notify_all(self) -> None:
        pass


PROCESS = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=0))


def incarnation_of(message: ToSphere) -> int | None:
    """Of the control that says so; None where the message doesn't tell, or says what the ledger holds for all."""
    match message:
        case Welcome() | Tick() | Orders():
            return message.incarnation
        case View():
            return message.generation[0]
        case _:
            return None


class ToyLink(Link):
    """All that Link decides is its own code; here is what drives it."""

    def __init__(self, sphere: Process, hello: Hello, beat_s: float) -> None:
        self._owner = sphere
        self._hello = hello
        self.path = hello.path
        self._changed = cast(Any, Condition())
        self._leave = sphere.thrown_out
        self._process = cast(Any, PROCESS)
        self._heard = Heard()
        self._standing = Standing()
        self._outbox = Outbox()
        self._memory = None
        self._replies = {}
        self._request = 0
        self._handshakes = 0
        self._welcome_due = self._superseded = self._closing = self._beat_due = False
        self._failure = self._interrupt = self._pulse = None
        self._beats = 0
        self._beat_s = beat_s
        self._next_beat_s = 0.0
        self._speaker = 0
        self.toy_line = Line()
        self._line = cast(Any, self.toy_line)

    def __repr__(self) -> str:
        return f"link of {self._owner}"

    @property
    def remembers(self) -> bool:
        """Whether a control without a ledger could learn of the run here."""
        return self._memory is not None

    @property
    def rows_kept(self) -> list[int]:
        """The versions that it could still tell of."""
        return [version for version, _ in self._outbox._rows if version > 0]

    def connect(self, wire: Wire) -> None:
        """A connection was made: what `_serve` does then."""
        self.toy_line.wire, self.toy_line.connected = wire, True
        self._handshakes += 1
        self._welcome_due = self._handshakes > 1
        self._superseded = False
        self._line.send(encode(self._introduction()))

    def turn(self, now_s: float, most: int) -> None:
        """What the thread does when it wakes. most: frames that it finds."""
        line = self.toy_line
        line.now_s, line.most = now_s, most
        if now_s >= self._next_beat_s:
            self._next_beat_s, self._beat_due = now_s + self._beat_s, True
        if line.wire is not None and not line.wire.below:
            line.hang_up()
        self._receive()
        if self._owner.alive:
            self._flush()

    def flush(self) -> None:
        """What the main thread has just said goes out."""
        self._flush()

    def _hear(self, message: ToSphere) -> None:
        before = self._heard
        if isinstance(message, Dial):
            self._owner.dials.append((self._owner.world.now_s + message.within_s, message))
            return
        if isinstance(message, Welcome):
            self._speaker = message.incarnation
        elif isinstance(message, Tick | Orders):  # one that adopts counts on, as it learns how far another had counted
            self._speaker = max(self._speaker, message.incarnation)
        super()._hear(message)
        if self._heard is before:
            return
        told = incarnation_of(message)
        if isinstance(message, View) and message.generation == before.generation:
            told = None  # its orders are news, which whoever speaks here tells
        if not isinstance(message, Go):
            laws.only_the_newest_control_is_obeyed(
                before.incarnation, told if told is not None else self._speaker, message
            )
        if isinstance(message, View | Orders):
            laws.orders_have_no_gap([wanted.number for wanted in self._heard.orders], self._owner)
        self._owner.has_heard(message)

    def ask(self, message: StoreRequest) -> int:
        """What `request` sends; the number to look for the reply by."""
        self._request += 1
        self._replies[self._request] = None
        self._outbox.put(msgspec.structs.replace(message, request=self._request))
        return self._request

    def reply(self, number: int) -> StoreReply | None:
        return self._replies.get(number)
