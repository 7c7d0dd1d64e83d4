"""A sphere of the protocol without torch, sockets or threads: sums are Counters of (index, attempt), a state is the
history of the learning rates that its updates used.

It follows PROTOCOL.md section 1 step by step; `World` gives it its turns, its messages and its faults.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec

from control.protocol import (
    NO_GENERATION,
    Beat,
    Closed,
    End,
    Expelled,
    Generation,
    Go,
    Hello,
    How,
    Orders,
    Phase,
    Position,
    Proof,
    Ready,
    Record,
    Refused,
    Row,
    Tick,
    View,
    Wanted,
    Welcome,
)
from control.wire import decode_at_sphere, encode
from tests.control.props import Bad, Wire

if TYPE_CHECKING:
    from tests.control.world import World

UNITS = 4
LAST = 5
OVERFLOWS = {1, 3}
"""Versions whose first attempt overflows."""

PROOF = Proof(fingerprint={"torch": "2"}, micro_batches=UNITS, max_steps=LAST)
PHASES = {"build": Phase.BUILDING, "fetch": Phase.FETCHING, "compute": Phase.COMPUTING, "closed": Phase.CLOSING}

History = tuple[float, ...]


def check_of(history: History) -> int:
    """What a row says of the weights."""
    return crc32(repr(history).encode())


class Toy:
    """One process. `pid` is its name; `sphere` is what control calls it."""

    def __init__(self, world: World, path: str, pid: int, former: int) -> None:
        self.world, self.path, self.pid, self.former = world, path, pid, former
        self.sphere = 0
        self.alive = True
        self.left = False
        self.frozen_until_s = 0.0
        self.hung_until_s = 0.0
        self.away_until_s = 0.0
        self.wire: Wire | None = None
        self.late: deque[bytes] = deque()
        """What had arrived before the connection closed, and is not yet read."""
        self.welcome = False
        self.incarnation = 0
        self.number = self.tick = 0
        self.beat_s = 0.0
        self.rows: list[Row] = []
        self.said: dict[type, msgspec.Struct] = {}
        self.generation: Generation = NO_GENERATION
        self.failed_in: Generation = NO_GENERATION
        self.unreachable: list[int] = []
        self.orders: list[Wanted] = []
        self.view: View | None = None
        self.go: Go | None = None
        self.stage = ""
        self.history: History | None = None
        self.position = Position()
        self.in_force = 0
        self.record: Record | None = None
        self.done: set[int] = set()
        self.own: Counter[tuple[int, int]] = Counter()
        self.sums: Counter[tuple[int, int]] | None = None
        self.known = -1
        self.in_force_at: dict[int, int] = {}
        self.dealt: set[int] = set()
        self.worked = 0

    def __repr__(self) -> str:
        return f"{self.path}#{self.sphere} {self.generation} {self.stage or 'frozen'} {self.position}"

    @property
    def members(self) -> list[int]:
        return [member.sphere for member in self.view.members] if self.view else []

    @property
    def phase(self) -> Phase:
        if not self.stage:
            return Phase.FROZEN if self.generation != NO_GENERATION else Phase.ADMITTED
        return PHASES.get(self.stage, Phase.REDUCING)

    # ---------------------------------------------------------------- the link

    def connect(self) -> None:
        self.wire = self.world.wired(self)
        self.welcome = False
        hello = Hello(run_id="run", path=self.path, pid=self.pid, host="here", sphere=self.sphere, former=self.former)
        hello = msgspec.structs.replace(hello, incarnation=self.incarnation)
        self.wire.up.append(encode(hello))

    def say(self, message: msgspec.Struct) -> None:
        if isinstance(message, Row):
            self.rows.append(message)
        else:
            self.said[type(message)] = message
        if self.wire is not None and self.wire.open and self.welcome:
            self.wire.up.append(encode(message))

    def _say_again(self, held: int) -> None:
        assert self.wire is not None
        again = [*([self.said[Proof]] if Proof in self.said else []), *[row for row in self.rows if row.version > held]]
        for message in (*again, *[message for kind, message in self.said.items() if kind is not Proof]):
            self.wire.up.append(encode(message))

    def beat(self) -> None:
        """If there is a connection that control knows."""
        if self.wire is None or not self.wire.open or not self.welcome:
            return
        self.number += 1
        beat = Beat(
            generation=self.generation,
            number=self.number,
            echo=self.tick,
            phase=self.phase,
            position=self.position,
            units_done=len(self.done) if self.worked else 0,
            closing=self.stage in ("reduce", "tail", "tailed") and self.is_over,
            failed_in=self.failed_in,
            seen=len(self.orders),
            in_force=self.in_force,
            incarnation=self.incarnation,
            unreachable=self.unreachable,
        )
        self.wire.up.append(encode(beat))

    def hear(self, frame: bytes) -> None:
        message = decode_at_sphere(frame)
        match message:
            case Welcome() if self.wire is None:
                pass
            case Welcome():
                if message.incarnation < self.incarnation:
                    raise Bad("an older control acts")
                self.sphere, self.incarnation, self.welcome = message.sphere, message.incarnation, True
                if Proof not in self.said:
                    self.said[Proof] = PROOF
                self._say_again(message.rows_held)
            case View():
                self._hear_orders(message.orders)
                if message.generation > self.generation:
                    self._enter(message)
            case Go():
                if message.generation == self.generation and not self.stage and self.failed_in != self.generation:
                    self._begin(message)
            case Orders():
                self._hear_orders(message.orders)
            case Tick():
                self.tick = max(self.tick, message.number)
            case Expelled() | Refused():
                self.world.say(self, "leaves", message.text)
                self.world.die(self)
            case End():
                self.left = True
                self.world.ended(self, message)
            case _:
                pass

    def _hear_orders(self, orders: list[Wanted]) -> None:
        for order in orders:
            if order.number > len(self.orders) + 1:
                raise Bad("a gap in a sphere's orders")
            if order.number == len(self.orders) + 1:
                self.orders.append(order)

    # ---------------------------------------------------------------- generations

    def freeze(self) -> None:
        """Give up the newest generation; sums stay as they were."""
        self.world.gave_up.setdefault(self.generation, set()).add(self.sphere)
        self.stage = ""

    def fail(self, unreachable: list[int] | None = None) -> None:
        self.world.say(self, "fails")
        self.freeze()
        self.failed_in, self.unreachable = self.generation, unreachable or []

    def _enter(self, view: View) -> None:
        self.freeze()
        self.generation, self.unreachable = view.generation, []
        if self.sphere not in [member.sphere for member in view.members]:
            self.view = None
            return
        self.view = view
        self.say(
            Ready(
                generation=view.generation,
                position=self.position,
                holds_state=self.history is not None,
                has_v0=self.world.reads_v0(self),
                digest="d0" if self.history in (None, ()) else None,
                done=sorted(self.done),
                has_sums=self.sums is not None,
                in_force=self.in_force,
                record=self.record,
            )
        )

    def _begin(self, go: Go) -> None:
        self.go, self.known, self.in_force_at = go, go.known, go.in_force_at
        if go.how is How.RECORD:
            self._follow(go)
        if go.how is How.HERE:
            if self.history is None:
                self.history = ()
            if self.position != go.position:
                raise Bad(f"told to go on at {go.position}, stands at {self.position}")
        if go.how is not How.HERE or not go.keep:
            self._drop()
        if go.how in (How.HERE, How.RECORD):
            self.in_force = go.in_force
        self.dealt = set(go.deal[self.sphere])
        self.stage = "build"

    def _follow(self, go: Go) -> None:
        record = go.record
        assert record is not None
        tail = json.loads(record.tail)
        if record.start != self.position:
            raise Bad(f"a record from {record.start} for who stands at {self.position}")
        if tail["what"] == "update":
            if self.sums is None:
                raise Bad("a record without sums")
            self._update(self.sums)
        self.position, self.record = record.end, record

    def _drop(self) -> None:
        self.done, self.own, self.sums = set(), Counter(), None

    # ---------------------------------------------------------------- the step

    def act(self) -> None:
        """One move of the main thread."""
        getattr(self, f"_{self.stage}")()

    def _build(self) -> None:
        cut = [other for other in self.members if self.world.is_cut(self.sphere, other)]
        if cut:
            self.fail(cut)
        elif self._is_broken():
            self.fail()
        else:
            assert self.go is not None
            self.stage = "compute" if self.go.how in (How.HERE, How.RECORD) else "fetch"

    def _fetch(self) -> None:
        go = self.go
        assert go is not None
        if go.how is How.LOAD:
            self.history, self.position, self.record = (), go.position, None
        else:
            donor = self.world.by_sphere.get(go.donor)
            if donor is None or not donor.alive or donor.generation != self.generation or not donor.stage:
                self.fail()
                return
            if donor.stage in ("build", "fetch"):
                return
            if donor.position != go.position:
                raise Bad(f"fetches {go.position} from who stands at {donor.position}")
            self.history, self.position, self.record = donor.history, donor.position, donor.record
        self.in_force, self.stage = go.in_force, "compute"

    @property
    def is_over(self) -> bool:
        assert self.history is not None
        stopped = self.in_force > 0 and self.orders[self.in_force - 1].stopped
        return self.position.version >= LAST or stopped

    def _compute(self) -> None:
        if self.position.closing:
            self.stage = "closed"
            self.world.say(self, "closed")
            reason = "completed" if self.position.version >= LAST else "stopped"
            digest = str(check_of(self.history or ()))
            self.say(Closed(generation=self.generation, version=self.position.version, digest=digest, reason=reason))
            return
        todo = sorted(self.dealt - self.done)
        if todo and not self.is_over:
            index = self.world.chance.choice(todo)
            self.done.add(index)
            self.own[index, self.position.attempt] += 1
            self.worked += 1
        else:
            self._put("sums", Counter(self.own))
            self.stage = "reduce"

    def _reduce(self) -> None:
        got = self._got("sums")
        if len(got) == len(self.members) and not self.world.spoils(self):
            self.sums = sum(got.values(), Counter())
            self._put("tail", len(self.orders))
            self.world.began_tail(self)
            self.stage = "tail"
        elif self._is_broken():
            self.fail()

    def _tail(self) -> None:
        got = self._got("tail")
        if len(got) == len(self.members) and not self.world.spoils(self):
            self._commit(min(got.values()))
        elif self._is_broken():
            self.fail()

    def _closed(self) -> None:
        """Stays as a holder until control says End."""

    def _commit(self, seen: int) -> None:
        assert self.sums is not None
        start = self.position
        if self.is_over:
            what, end = "close", msgspec.structs.replace(start, closing=start.closing + 1)
        elif start.version in OVERFLOWS and start.attempt == 0:
            what, end = "overflow", msgspec.structs.replace(start, attempt=1)
        else:
            what, end = "update", Position(version=start.version + 1)
            self._update(self.sums)
        self.record = Record(start=start, end=end, tail=json.dumps({"what": what}).encode())
        self.position = end
        self._drop()
        if what == "update":
            self.in_force = self._order_after(end.version, seen)
            assert self.history is not None
            row = Row(
                generation=self.generation,
                version=end.version,
                learning_rate=self.history[-1],
                check=check_of(self.history),
                in_force=self.in_force,
                seconds={"step": 0.1},
                own_units=1,
            )
            self.say(row)
        self.world.committed(self)
        self.dealt = {unit for unit in range(UNITS) if self.members[unit % len(self.members)] == self.sphere}
        self.stage = "compute"

    def _order_after(self, version: int, seen: int) -> int:
        if version <= self.known:
            seen = max((entry for entry in self.in_force_at.items() if entry[0] <= version), default=(0, 0))[1]
        return max(self.in_force, seen)

    def _update(self, sums: Counter[tuple[int, int]]) -> None:
        wanted = Counter({(unit, self.position.attempt): 1 for unit in range(UNITS)})
        if +sums != wanted:
            raise Bad(f"wrong sums at {self.position}: {dict(sums)}")
        assert self.history is not None
        rate = (self.orders[self.in_force - 1].learning_rate or 0.0) if self.in_force else 0.0
        if self.history and rate < self.history[-1]:
            raise Bad(f"an order was undone: {self.history}, then {rate}")
        self.history = (*self.history, rate)

    # ---------------------------------------------------------------- collectives

    def _key(self, kind: str) -> tuple[object, ...]:
        return self.generation, self.position, kind

    def _put(self, kind: str, value: object) -> None:
        self.world.collectives.setdefault(self._key(kind), {})[self.sphere] = value

    def _got(self, kind: str) -> dict[int, Any]:
        return self.world.collectives.get(self._key(kind), {})

    def _is_broken(self) -> bool:
        gave_up = self.world.gave_up.get(self.generation, set())
        return any(other in gave_up or not self.world.lives(other) for other in self.members)
