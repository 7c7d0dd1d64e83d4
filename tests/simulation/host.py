"""A machine on which control runs: the shipped Server whole, on a disk and behind a door of the simulated world."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, cast

from control.config import Settings
from control.events import Event, GenerationBegun, GenerationProposed, RunEnded, SphereExpelled
from control.generations import TAKEOVER_S
from control.protocol import NO_GENERATION, Answer, Go, Hello, How, Orders, Tick, ToSphere, View, Welcome
from control.protocol import Event as Story
from control.server import Server
from control.state import State
from spheres.words import position_of
from tests.simulation import laws
from tests.simulation.disk import Disk
from tests.simulation.laws import Told
from tests.simulation.network import Gate

if TYPE_CHECKING:
    from tests.simulation.world import World

NOTHING = Told(NO_GENERATION, NO_GENERATION, 0, -1)


class Died(BaseException):
    """Control is killed here."""


class Points:
    """In place of control.points: whose turn it is says what it says."""

    host: Host

    def before(self, message: ToSphere | Answer) -> None:
        self.host.says(message, "before")

    def after(self, message: ToSphere | Answer) -> None:
        self.host.says(message, "after")


class Control(Server):
    """The shipped one. What breaks in it breaks a law, and each of its facts is looked at."""

    host: Host

    def _broke(self, error: Exception, now_s: float) -> None:
        if isinstance(error, laws.Broken):
            raise error
        laws.nobody_breaks(error, "control")

    def _stumbled(self, before: State, identity: bytes, error: Exception, now_s: float, request: str = "") -> None:
        raise error

    def _admit_hello(self, identity: bytes, hello: Hello, now_s: float) -> None:
        newer = hello.incarnation > self.state.incarnation and not self.state.remembers
        super()._admit_hello(identity, hello, now_s)
        self.host.superseded = self.host.superseded or newer

    def _happen(self, event: Event, now_s: float) -> None:
        before = self.state.versions.version
        if isinstance(event, GenerationBegun) and How.LOAD in event.how.values():
            laws.v0_is_the_last_resort(self._holders(now_s))
        elif isinstance(event, GenerationBegun):
            laws.a_generation_begins_at_the_highest(tuple(position_of(event.position)), self._heights(event))
        super()._happen(event, now_s)
        laws.versions_only_rise((before,), (self.state.versions.version,), "control")
        self.host.world.mark(type(event).__name__)
        match event:
            case GenerationProposed():
                laws.generations_only_rise(self.host.world.newest_heard(), event.generation)
                self.host.world.say("control", f"calls {event.generation} of {laws.members_of(event.members)}")
            case GenerationBegun():
                self.host.world.begun(event)
            case SphereExpelled():
                self.host.world.thrown_out(event.sphere, self.state.generation, event.text)
            case RunEnded():
                self.host.world.say("control", f"ends the run: {event.status}, {event.reason}")
                laws.the_run_does_not_fail(event, self.host.world.flipped)
            case _:
                pass

    def _line(self) -> set[int]:
        """Who was told to go last, without asking the code that is judged."""
        return set(self.state.begun.deal) if self.state.begun is not None else set()

    def _heights(self, event: GenerationBegun) -> dict[str, tuple[int, ...]]:
        """Where the members stand that may carry on: those of the line, if any of these is here with a state."""
        spheres = self.host.world.by_sphere
        holders = {
            member.sphere: spheres[member.sphere]
            for member in event.members
            if member.sphere in spheres and spheres[member.sphere].holds_state
        }
        line = {sphere: each for sphere, each in holders.items() if sphere in self._line()} or holders
        return {repr(each): tuple(each.place.position) for each in line.values() if not each.weights.spoilt}

    def _holders(self, now_s: float) -> list[str]:
        """Who has the state of the line, and is not given up."""
        there = {seat.sphere: seat for seat in self.state.seats.values() if seat.sphere in self._line()}
        return [
            repr(sphere)
            for sphere in self.host.world.spheres
            if sphere.alive and sphere.holds_state and not sphere.weights.spoilt and (seat := there.get(sphere.sphere))
            if not seat.expelled and seat.failed is None
            if now_s - (seat.heard_s if seat.connected else seat.lost_s) <= TAKEOVER_S
        ]


class Host:
    """One disk, and the control that is started on it, again after each death. adopt: told that the former one is dead
    and its ledger lost."""

    def __init__(self, world: World, name: str, adopt: bool = False) -> None:
        self.world, self.name, self.adopt = world, name, adopt
        self.chance = random.Random(f"{world.seed}/{name}")
        self.disk = Disk(self._strikes, world.may_cut_power)
        self._remembered = 0
        self.gate = Gate(self)
        self.server: Control | None = None
        self.told = NOTHING
        self.awake_s = 0.0
        self.stopped_s = self.stopped_until_s = 0.0
        self.back_s = 0.0
        self.incarnation = 0
        """Of the newest control here, as far as it has counted."""
        self.superseded = False
        """Somebody has told the control here of a later one."""
        self._line = 0
        """The newest version in metrics.jsonl when this turn began: a later line may be torn by a crash in it."""

    @property
    def acts(self) -> bool:
        """Whether it is up and not stopped."""
        return self.server is not None and self.stopped_until_s <= self.world.now_s

    def now_s(self) -> float:
        """As AwakeClock."""
        return self.awake_s

    def start(self) -> None:
        """The next incarnation."""
        world = self.world
        world.points.host = self
        self.awake_s = 0.0
        self.superseded = False
        self.adopt = self.adopt and self.disk.count("Remembered") == self._remembered
        settings = Settings(
            folder=self.disk.folder, run_id="run", tree=world.tree, silence_s=world.silence_s, adopt=self.adopt
        )
        try:
            ledger = self.disk.opened()
            ledger.set("tree", world.tree)
            server = Control(settings, ledger, cast(Any, self.gate))
        except Died:
            self.die(0.5)
            return
        server.host = self
        self.server = server
        world.say(self.name, f"control {ledger.incarnation} is up")
        world.mark("control up")
        if not self.adopt:
            laws.nothing_acknowledged_is_forgotten(self.told, world.answered_by(self), server.state)

    def told_to_adopt(self) -> None:
        """By a person, who says so until its ledger knows what the spheres remember."""
        self.adopt, self._remembered = True, self.disk.count("Remembered")

    def turn(self, dt_s: float) -> int | None:
        """Its exit code once it ends."""
        if self.server is None:
            if self.world.now_s >= self.back_s:
                self.start()
            return None
        if self.stopped_until_s > self.world.now_s:
            return None
        self.world.points.host = self
        self.awake_s += dt_s
        self._line = self.server.journal.newest
        try:
            code = self.server.turn(self.awake_s)
        except Died:
            self.die(self.world.back_s)
            return None
        self.incarnation = self.server.state.incarnation
        laws.a_superseded_control_acts_no_more(self.superseded, code is not None, self.name)
        return code

    def die(self, back_s: float) -> None:
        """The process is killed; it is started again after so many silences."""
        self.disk.crash()
        if self.server is not None:
            self.world.say(self.name, "control dies")
            if self.server.journal.newest > self._line and self.chance.random() < 0.5:
                self.disk.tear(self.chance)
                self.world.mark("torn line")
        self.server = None
        self.back_s = self.world.now_s + back_s * self.world.silence_s
        for wire in self.gate.wires:
            wire.cut()
        self.gate = Gate(self)

    def _strikes(self) -> None:
        self.world.mark("write")

    def says(self, message: ToSphere | Answer, when: str) -> None:
        """A message leaves, or has left."""
        told = self.told
        if when == "before":
            laws.nothing_is_said_before_it_is_kept(self.disk.is_open, message)
            match message:
                case View():
                    self.told = told._replace(view=message.generation, orders=max(told.orders, len(message.orders)))
                case Go():
                    self.world.goes(message.generation)
                    self.told = told._replace(go=message.generation)
                case Orders():
                    self.told = told._replace(orders=max(told.orders, message.orders[-1].number))
                case Welcome():
                    self.told = told._replace(rows=max(told.rows, message.rows_held))
                case _:
                    pass
        if not isinstance(message, Tick | Answer):
            self.world.mark(f"{when} {type(message).__name__}")

    def answers(self, message: Answer | Story) -> None:
        """To the client."""
        laws.nothing_is_said_before_it_is_kept(self.disk.is_open, message)
        if isinstance(message, Answer):
            self.world.client.hear(message)

    def close(self) -> None:
        self.disk.close()
