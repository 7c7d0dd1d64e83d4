"""A world of toy spheres around the shipped control, on a clock of its own: every schedule from one seed.

Control is the shipped Server whole: admit, apply, plan, recall, its ledger. Only its door, its clock and the file of
its metrics are this world's. What can go wrong: spheres die, stop, hang, lose their connection, can't reach each other;
collectives end well for some members and badly for others; control dies, also between ledger and message.
"""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path
from typing import Any

import control.server
from control.config import Settings
from control.door import Arrived, Heard, Left
from control.errors import LedgerError
from control.ledger import Ledger
from control.protocol import Ask, Generation, Position
from control.report import alarm_of
from control.server import Server
from control.state import Order
from control.wire import encode
from tests.control.props import Bad, Pages, Shelf, Wire, put
from tests.control.toy import LAST, Toy

SILENCE_S = 1.0
SETTINGS = Settings(folder=Path("."), run_id="run", tree="eu:2,us:1", silence_s=SILENCE_S)
PATHS = SETTINGS.paths
TICKS = 4000


class Died(BaseException):
    """Control is killed here."""


class Gate:
    """Control's door in this world. `fuse`: control dies before it sends so many more messages."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.heard: deque[Heard] = deque()
        self.fuse: int | None = None

    def receive(self) -> list[Heard]:
        heard, self.heard = list(self.heard), deque()
        return heard

    def send(self, identity: bytes, frame: bytes) -> bool:
        if self.world.folder is None and self.world.shelf.is_open:
            raise Bad("something is said before it is in the ledger")
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise Died
        wire = self.world.wires.get(identity)
        if wire is None or not wire.open:
            return False
        wire.down.append(frame)
        return True


class Control(Server):
    """The shipped one; but what breaks in it breaks the test."""

    def _broke(self, error: Exception, now_s: float) -> None:
        raise error


class World:
    """One run. `faults`: how many may happen before all has to heal. folder: a real ledger there, else a Shelf."""

    def __init__(self, seed: int, faults: int = 6, folder: Path | None = None) -> None:
        self.chance = random.Random(seed)
        self.faults = faults
        self.moves = self.chance.choice((2, 3, 5))
        self.now_s = 0.0
        self.folder = folder
        self.shelf = Shelf()
        self.control: Control | None = None
        self.gate = Gate(self)
        self.control_back_s = 0.0
        self.toys: list[Toy] = []
        self.by_sphere: dict[int, Toy] = {}
        self.wires: dict[bytes, Wire] = {}
        self.owner: dict[bytes, Toy] = {}
        self.pids = 100
        self.newborn: list[tuple[float, str, int]] = []
        self.gave_up: dict[Generation, set[int]] = {}
        self.collectives: dict[tuple[object, ...], dict[int, Any]] = {}
        self.cuts: dict[frozenset[int], float] = {}
        self.first_commit: dict[Generation, int] = {}
        self.tail_began: dict[tuple[Generation, Position], int] = {}
        self.rates = 0
        self.log: list[tuple[object, ...]] = []
        self.ticks = 0
        self.quiet = 0
        self.end: str = ""
        self.born(PATHS[0])
        self.born(PATHS[1])
        self.born(PATHS[2])
        self.start_control()

    def say(self, *words: object) -> None:
        self.log.append((round(self.now_s, 2), *[str(word) for word in words]))

    # ---------------------------------------------------------------- control

    def start_control(self) -> None:
        self.gate = Gate(self)
        if self.folder is not None:
            ledger: Any = Ledger.open(self.folder / "ledger.db", "run")
        else:
            ledger = self.shelf.opened()
        clock = type("Clock", (), {"now_s": lambda _: self.now_s})
        kept = put(control.server, "AwakeClock", clock)
        self.control = Control(SETTINGS, ledger, self.gate)  # type: ignore[arg-type]
        kept()
        self.say("control up", ledger.incarnation)

    def kill_control(self) -> None:
        if self.control is None:
            return
        self.say("control dies")
        if self.folder is not None:
            ledger = self.control.ledger
            ledger._inside = False
            ledger._connection.rollback()
            ledger.close()
        self.control = None
        self.control_back_s = self.now_s + self.chance.uniform(0.1, 2.0)
        for toy in self.toys:
            self.cut(toy)

    def turn(self) -> None:
        """Control hears a part of what has arrived, and does what there is to do."""
        if self.control is None:
            if self.now_s >= self.control_back_s:
                self.start_control()
            return
        for wire in list(self.wires.values()):
            for _ in range(self.chance.randrange(6)):
                if wire.up:
                    self.gate.heard.append(Arrived(wire.identity, wire.up.popleft(), wire.open))
            if not wire.open and not wire.up:
                self.gate.heard.append(Left(wire.identity))
                del self.wires[wire.identity]
        if self.faults > 0 and self.chance.random() < 0.01:
            self.faults -= 1
            self.gate.fuse = self.chance.randrange(4)
        try:
            code = self.control.turn(self.now_s)
        except Died:
            self.kill_control()
            return
        self.gate.fuse = None
        self._listen()
        if code is not None:
            self._stop(code)

    def _listen(self) -> None:
        state = self.control.state if self.control else None
        if state is None:
            return
        if state.ended is not None and not self.end:
            self.end = state.ended.status
            self.say("END", state.ended.status, state.ended.reason)
            if self.end == "failed":
                raise Bad(f"the run failed: {state.ended.reason}")

    def _stop(self, code: int) -> None:
        if code == control.server.FENCED:
            raise Bad("control was fenced")
        self.say("control leaves", code)
        self.quiet = -1

    # ---------------------------------------------------------------- what spheres ask of it

    def wired(self, toy: Toy) -> Wire:
        self.pids += 1
        wire = Wire(str(self.pids).encode())
        self.wires[wire.identity] = wire
        return wire

    def born(self, path: str, former: int = 0) -> None:
        self.pids += 1
        self.toys.append(Toy(self, path, self.pids, former))

    def die(self, toy: Toy) -> None:
        """And its supervisor starts another one, which in most cases proves that this one is dead."""
        self.say(toy, "is dead")
        toy.alive = False
        toy.freeze()
        self.cut(toy)
        former = toy.pid if self.chance.random() < 0.9 else 0
        self.newborn.append((self.now_s + self.chance.uniform(0.05, 1.5), toy.path, former))

    def cut(self, toy: Toy) -> None:
        """The connection closes; what was on its way may be lost, from some point on."""
        wire, toy.wire, toy.welcome = toy.wire, None, False
        if wire is None:
            return
        wire.open = False
        toy.late.extend(list(wire.down)[: self.chance.randrange(len(wire.down) + 1)])
        wire.down.clear()
        for _ in range(self.chance.randrange(len(wire.up) + 1)):
            wire.up.pop()
        if self.control is None:
            self.wires.pop(wire.identity, None)

    def lives(self, sphere: int) -> bool:
        toy = self.by_sphere.get(sphere)
        return toy is not None and toy.alive

    def reads_v0(self, toy: Toy) -> bool:
        return toy.path != PATHS[1]

    def is_cut(self, one: int, other: int) -> bool:
        return self.cuts.get(frozenset((one, other)), -1.0) > self.now_s

    def spoils(self, toy: Toy) -> bool:
        """Whether a collective that is whole ends badly for this one all the same."""
        gave_up = self.gave_up.get(toy.generation, set())
        return any(other in gave_up or not self.lives(other) for other in toy.members) and self.chance.random() < 0.4

    def began_tail(self, toy: Toy) -> None:
        self.tail_began.setdefault((toy.generation, toy.position), self.ticks)

    def committed(self, toy: Toy) -> None:
        self.say(toy, "commits", toy.history, toy.in_force)
        start = toy.record.start if toy.record else toy.position
        self.first_commit.setdefault(toy.generation, self.ticks)
        later = [tick for generation, tick in self.first_commit.items() if generation > toy.generation]
        if later and self.tail_began[toy.generation, start] > min(later):
            raise Bad(f"two trees: {toy} commits beside a later generation")
        for other in self.toys:
            same = other is not toy and other.alive and other.generation == toy.generation
            if same and other.stage not in ("", "build", "fetch") and other.position == toy.position:
                if other.history != toy.history:
                    raise Bad(f"members differ at {toy.position}: {toy.history}, {other.history}")

    def ended(self, toy: Toy, message: Any) -> None:
        if message.status == "completed" and (toy.position.version != LAST or not toy.position.closing):
            if toy.stage and self.control is not None and toy.generation == self.control.state.running:
                raise Bad(f"{toy} was told of an end that it has not reached")
        toy.alive = False
        self.cut(toy)

    # ---------------------------------------------------------------- the schedule

    def fault(self) -> None:
        self.faults -= 1
        live = [toy for toy in self.toys if toy.alive]
        toy = self.chance.choice(live) if live else None
        kind = self.chance.random()
        if toy is None or kind < 0.15:
            self.kill_control()
        elif kind < 0.45:
            self.die(toy)
        elif kind < 0.6:
            self.say(toy, "is cut off")
            self.cut(toy)
            toy.away_until_s = self.now_s + self.chance.choice((0.0, 0.2, 0.5, 1.0, 3.0))
        elif kind < 0.7:
            self.say(toy, "is stopped")
            toy.frozen_until_s = self.now_s + self.chance.uniform(0.2, 6.0)
        elif kind < 0.78:
            self.say(toy, "hangs")
            toy.hung_until_s = self.now_s + self.chance.uniform(0.2, 6.0)
        elif kind < 0.88:
            if toy.stage in ("reduce", "tail", "fetch"):
                toy.fail()
        elif len(live) > 1:
            one, other = self.chance.sample(live, 2)
            self.say(one, "can't reach", other)
            self.cuts[frozenset((one.sphere, other.sphere))] = self.now_s + self.chance.uniform(0.5, 4.0)

    def order(self) -> None:
        if self.control is None or self.control.state.ended is not None:
            return
        self.rates += 1
        stop = self.chance.random() < 0.01
        ask = Ask(request=str(self.rates), what="stop" if stop else "set_learning_rate", value=float(self.rates))
        self.gate.heard.append(Arrived(b"client", encode(ask), False))

    def let(self, toy: Toy) -> None:
        """A sphere's turn: hear, move, say."""
        if toy.frozen_until_s > self.now_s:
            if toy.wire is not None and toy.wire.open and toy.frozen_until_s - self.now_s > SILENCE_S:
                self.cut(toy)
            return
        while toy.late:
            toy.hear(toy.late.popleft())
        if toy.wire is None and toy.alive:
            if self.control is not None and self.now_s >= toy.away_until_s and self.chance.random() < 0.5:
                toy.connect()
        elif toy.wire is not None:
            for _ in range(self.chance.randrange(4)):
                if toy.wire is not None and toy.wire.down:
                    toy.hear(toy.wire.down.popleft())
        if toy.sphere:
            self.by_sphere[toy.sphere] = toy
        if not toy.alive:
            return
        if toy.hung_until_s <= self.now_s:
            for _ in range(self.chance.randrange(self.moves)):
                if toy.stage and toy.alive:
                    toy.act()
        if self.now_s - toy.beat_s >= 0.1:
            toy.beat_s = self.now_s
            toy.beat()

    def step(self) -> None:
        self.ticks += 1
        self.now_s += self.chance.choice((0.01, 0.05, 0.1, 0.3))
        if self.faults > 0 and self.chance.random() < 0.05:
            self.fault()
        if self.chance.random() < 0.04 and self.rates < 12:
            self.order()
        for due in [each for each in self.newborn if each[0] <= self.now_s]:
            self.newborn.remove(due)
            self.born(due[1], due[2])
        self.toys = [toy for toy in self.toys if toy.alive]
        for toy in self.chance.sample(self.toys, len(self.toys)):
            self.let(toy)
        self.turn()

    def run(self) -> str:
        """To the end, which there has to be. Raises Bad."""
        while self.quiet >= 0:
            self.step()
            if self.ticks > TICKS:
                raise Bad(f"no end: {self.alarm()}")
        self.audit()
        return self.end

    def alarm(self) -> str:
        state = self.control.state if self.control else None
        return alarm_of(state, self.now_s) if state else "control is away"

    def audit(self) -> None:
        """What the ledger says of learning rates is what the updates used."""
        assert self.control is not None
        state, ledger = self.control.state, self.control.ledger
        if self.end != "completed":
            return
        history: dict[int, float] = {}
        for row in ledger.rows_after(0):
            history[row.version] = row.learning_rate or 0.0
            if row.in_force != max(
                (each.wanted.number for each in state.orders if took_by(each, row.version)), default=0
            ):
                raise Bad(f"the row of version {row.version} says order {row.in_force}; the ledger's orders differ")
        for version, rate in history.items():
            took = [order.wanted for order in state.orders if order.version is not None and order.version < version]
            expected = (took[-1].learning_rate or 0.0) if took else 0.0
            if rate != expected:
                raise Bad(f"version {version} used {rate}, the ledger's orders say {expected}")

    def close(self) -> None:
        if self.folder is not None and self.control is not None:
            self.control.ledger.close()


def took_by(order: Order, version: int) -> bool:
    """Whether the ledger says that this order was in force at that version."""
    return order.version is not None and order.version <= version


def played(seed: int, faults: int = 6, folder: Path | None = None) -> str:
    """How the run of this seed ends; or what was bad."""
    kept = put(control.server, "Journal", Pages)
    world = World(seed, faults, folder)
    try:
        return world.run()
    except (Bad, AssertionError, LedgerError) as error:
        return f"seed {seed}: {type(error).__name__}: {error}"
    finally:
        world.close()
        kept()
