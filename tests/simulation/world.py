"""A world in which control's own code runs with toy spheres, on a clock of its own: every run from one seed.

What may happen is in faults.py, what must hold in laws.py. After `lasts` all is mended, and then the run has to end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial

from control.events import GenerationBegun
from control.protocol import Generation, Proof
from control.report import alarm_of
from control.server import FENCED
from control.tree import parse_tree
from lightwatch.sync import Position
from spheres.words import position_of
from tests.simulation import laws, mending, strikes
from tests.simulation.client import Client
from tests.simulation.effort import Effort
from tests.simulation.fault import Fault
from tests.simulation.faults import DEATHS_OF_CONTROL, LONG_STEPS, planned, theme_of, tree_of
from tests.simulation.group import Meetings
from tests.simulation.host import Died, Host, Points
from tests.simulation.network import Wire
from tests.simulation.process import Process
from tests.simulation.sphere import Sphere

LASTS = 14.0
"""Silences in which things happen."""
SLOW_SCENES, LONGER = ("relay",), 2
"""What takes so many times as long to play out."""
BOUND_S, BOUND_SILENCES = 100.0, 60.0
"""How long a run may go on once all is mended: a takeover and a bar take a minute and a half at most."""


class World:
    """One run. left_out: numbers of the faults that are not to happen."""

    def __init__(self, seed: int, left_out: Collection[int] = ()) -> None:
        self.seed = seed
        self.chance = random.Random(f"{seed}/world")
        self.silence_s = self.chance.choice((1.0, 2.0, 5.0))
        self.moves = self.chance.choice((2, 3, 5))
        self.units = self.chance.choice((2, 3, 4, 4, 5, 8))
        self.last = self.chance.choice((3, 4, 5, 6, 10))
        if theme_of(seed) in LONG_STEPS:
            self.moves, self.units = 2, 12
        self.overflows = set(self.chance.sample(range(self.last), self.chance.randrange(3)))
        self.tree = tree_of(seed)
        self.paths = parse_tree(self.tree)
        self.blind = set(self.chance.sample(self.paths[1:], min(self.chance.randrange(2), len(self.paths) - 1)))
        self.proof = Proof(fingerprint={"torch": "2"}, micro_batches=self.units, max_steps=self.last)
        self.heal_s = LASTS * self.silence_s * (LONGER if theme_of(seed) in SLOW_SCENES else 1)
        self.now_s = 0.0
        self.log: list[tuple[float, str, str]] = []
        self.counts: Counter[str] = Counter({f"theme {theme_of(seed)}": 1})
        self.faults = planned(seed, LASTS, left_out)
        self.may_cut_power = any(fault.kind == "power cut" for fault in self.faults)
        self._timed = sorted((fault for fault in self.faults if fault.after is None), key=lambda fault: -fault.at_s)
        self._waiting: dict[tuple[str, int], list[Fault]] = {}
        for fault in self.faults:
            if fault.after is not None:
                self._waiting.setdefault(fault.after, []).append(fault)
        self._due: list[Fault] = []
        self.back_s = 1.0
        self.points = Points()
        self.client = Client(self)
        self.meetings = Meetings()
        self.spheres: list[Sphere] = []
        self.by_sphere: dict[int, Sphere] = {}
        self.newborn: list[tuple[float, str, int]] = []
        self._pids = 100
        self._lives: Counter[str] = Counter()
        self._slow: dict[str, float] = {}
        self.deaf: dict[str, tuple[float, float, bool, bool]] = {}
        self.apart: dict[tuple[str, str], float] = {}
        self.troubled: set[str] = set()
        """Paths at which something other than a connection was broken."""
        self.has_v0 = self.is_spoilt = self.lost_disk = False
        self.founding: Generation | None = None
        self.foundings: set[Generation] = set()
        self.paused = False
        self.flipped: set[int] = set()
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.retired: list[Host] = []
        self.tails_met: dict[tuple[Generation, int], bool] = {}
        self._tail_began: dict[tuple[Generation, Position], int] = {}
        self._first_step: dict[Generation, int] = {}
        self._events = self._idle = 0
        self._told: dict[tuple[Generation, str], object] = {}
        self._healed = False
        self.effort = Effort(self)
        self.host = Host(self, "host")
        self.hosts = [self.host]
        self.door = self.host
        self.ended = ""
        for path in self.paths:
            self.born(path)

    # ---------------------------------------------------------------- the story

    def say(self, who: object, what: str) -> None:
        self.log.append((self.now_s, who if isinstance(who, str) else repr(who), what))

    def mark(self, name: str) -> None:
        """Something happened: count it, and let a fault that waits for it strike. Control's own death strikes here."""
        self._events += 1
        self.counts[name] += 1
        faults = self._waiting.pop((name, self.counts[name]), [])
        for fault in faults:
            if fault.later_s:
                self.later.append((self.now_s + fault.later_s * self.silence_s, partial(self._due.append, fault)))
                continue
            self._due.append(fault)
            if (
                fault.kind in DEATHS_OF_CONTROL
                and name in strikes.WHILE_CONTROL_ACTS
                and self.points.host is self.host
                and self.now_s < self.heal_s
            ):
                self.back_s = fault.back_s
                raise Died

    def strike(self) -> None:
        """What is due happens now, between two moves."""
        while self._due:
            fault = self._due.pop(0)
            if self.now_s < self.heal_s:
                strikes.strike(self, fault)

    # ---------------------------------------------------------------- spheres

    def born(self, path: str, former: int = 0) -> None:
        self._pids += 1
        self._lives[path] += 1
        chance = random.Random(f"{self.seed}/{path}/{self._lives[path]}")
        self.spheres.append(Sphere(self, path, self._pids, former, chance))

    def gone(self, sphere: Process, succeeded: bool, proof: bool = True, back_s: float = 0.5) -> None:
        """A process has ended; its supervisor starts another, and mostly knows that this one is dead."""
        sphere.alive = False
        self.meetings.leave(sphere.generation, sphere.sphere)
        self.cut(sphere)
        if succeeded:
            at_s = self.now_s + back_s * self.silence_s
            self.newborn.append((at_s, sphere.path, sphere.pid if proof else 0))

    def has_left(self, sphere: Process) -> None:
        """It was asked to leave, and may. Where it was, another comes in a while, or nobody."""
        self.say(sphere, "has left, as it was asked to")
        self.mark("sphere left")
        begun = self.host.server is not None and self.host.server.state.begun is not None
        back_s = sphere.leaves_for_s if sphere.leaves_for_s is not None else 0.0
        self.gone(sphere, succeeded=not begun or back_s < LASTS, back_s=min(back_s, 1.0))

    def cut(self, sphere: Process) -> None:
        wire = sphere.link.toy_line.wire
        if wire is not None:
            wire.cut()

    def connect(self, sphere: Sphere) -> None:
        """A sphere without a connection tries to make one."""
        host = self.door if sphere.link.heard.incarnation else self.host
        if not host.acts or self.is_cut_off(sphere.path) or sphere.chance.random() < 0.5:
            return
        wire = Wire(sphere.identity, host, sphere.chance, self.silence_s)
        host.gate.connect(wire)
        sphere.link.toy_line.now_s = self.now_s
        sphere.link.connect(wire)
        self.mark("connection made")

    def is_cut_off(self, path: str) -> bool:
        since_s, until_s, _, _ = self.deaf.get(path, (0.0, -1.0, False, False))
        return since_s <= self.now_s < until_s

    def at(self, place: int) -> Sphere | None:
        """Who lives at a place of the tree now."""
        path = self.paths[place % len(self.paths)]
        return next((each for each in self.spheres if each.alive and each.path == path), None)

    def pace_of(self, path: str) -> float:
        return self._slow.get(path, 0.1)

    def slow(self, path: str, pace_s: float) -> None:
        self._slow[path] = pace_s

    def reads_v0(self, path: str) -> bool:
        return self.has_v0 and path not in self.blind

    def write_v0(self, position: Position) -> None:
        """By the first of the first generation."""
        if position == Position() and not self.has_v0:
            self.has_v0 = True

    def is_deaf_to(self, sphere: int, other: int) -> bool:
        """Whether nothing of the other's comes to this one."""
        one, two = self.by_sphere.get(sphere), self.by_sphere.get(other)
        return one is not None and two is not None and self.apart.get((two.path, one.path), -1.0) > self.now_s

    def reaches(self, sphere: int, other: int) -> bool:
        """Whether a question of this one is answered by the other."""
        two = self.by_sphere.get(other)
        if two is None or not two.alive or two.frozen_until_s > self.now_s:
            return False
        return not self.is_deaf_to(sphere, other) and not self.is_deaf_to(other, sphere)

    # ---------------------------------------------------------------- what is known from outside

    @property
    def answered(self) -> dict[int, int]:
        """Order -> the version from which it holds, as a client was told."""
        return self.client.versions

    def answered_by(self, host: Host) -> dict[int, int]:
        return self.answered if host is self.host else {}

    def newest_heard(self) -> Generation:
        """The newest generation that anybody who lives has heard of."""
        if self.points.host is not self.host:
            return (0, 0)
        return max((each.link.heard.generation for each in self.spheres if each.alive), default=(0, 0))

    def heard_of(self, generation: Generation, what: str, told: object) -> None:
        known = self._told.setdefault((generation, what), told)
        laws.a_generation_has_one_meaning(known, told, generation)

    def begun(self, event: GenerationBegun) -> None:
        """Control has written a generation's beginning."""
        at = f"{event.generation} begins at {tuple(position_of(event.position))}"
        self.say("control", f"{at}, keeps {event.keep}, deals {event.deal}")
        if event.founding:
            self.founding = event.generation

    def thrown_out(self, sphere: int, generation: Generation, text: str) -> None:
        """Control has decided so."""
        who = self.by_sphere.get(sphere)
        if who is not None and who.answered[0] == generation and who.path not in self.troubled:
            laws.who_has_answered_is_not_thrown_out(self.now_s - who.answered[1], 2 * self.silence_s, text)

    def goes(self, generation: Generation) -> None:
        """Control says Go."""
        if generation == self.founding:
            self.foundings.add(generation)
            laws.a_run_is_founded_once(len(self.foundings))

    def begins_anew(self) -> None:
        """Nothing of the run that was lost binds the next one."""
        self.foundings.clear()
        self._first_step.clear()
        self._tail_began.clear()
        self._told.clear()

    def is_over(self, generation: Generation) -> bool:
        state = self.host.server.state if self.host.server is not None else None
        return state is None or generation != state.running

    def enters_tail(self, sphere: Process) -> None:
        self.mark("tail entered")
        self._tail_began.setdefault((sphere.generation, sphere.place.position), self._events)

    def stands(self, sphere: Sphere) -> None:
        """A sphere has come to where a generation begins."""
        if sphere.weights.spoilt:
            self.is_spoilt = True

    def finished_step(self, sphere: Process, start: Position) -> None:
        """A sphere has made a version."""
        self.mark("version made")
        version = start.version + 1
        self.say(
            sphere, f"makes version {version} as {sphere.weights.digest[:6]}, order {sphere.place.in_force.number}"
        )
        self._first_step.setdefault(sphere.generation, self._events)
        later = [at for generation, at in self._first_step.items() if generation > sphere.generation]
        began = self._tail_began.get((sphere.generation, start))
        if began is not None:
            laws.only_one_tree_trains(began, later, sphere)
        if not sphere.weights.spoilt and not self.is_spoilt:
            laws.one_digest_a_version(self._known(version, sphere), sphere.weights.digest, version, sphere)

    def _known(self, version: int, maker: Process) -> str | None:
        """What somebody else who lives holds of this very version."""
        for other in self.spheres:
            if other is not maker and other.alive and other.holds_state and not other.weights.spoilt:
                if other.place.position.version == version and other.is_in:
                    return other.weights.digest
        return None

    # ---------------------------------------------------------------- the schedule

    def step(self) -> None:
        quiet = self.now_s > self.heal_s and self._idle > 3
        dt_s = (0.3 if quiet else self.chance.choice((0.02, 0.05, 0.1, 0.2, 0.4))) * self.silence_s
        self.now_s += dt_s
        while self._timed and self._timed[-1].at_s * self.silence_s <= self.now_s:
            self._due.append(self._timed.pop())
        self.strike()
        if self.now_s >= self.heal_s and not self._healed:
            self._healed = True
            mending.heal(self)
        if self._healed and not self.newborn and not any(each.alive for each in self.spheres):
            mending.fill(self, self.paths[:1])  # all have left
        for due in [each for each in self.later if each[0] <= self.now_s]:
            self.later.remove(due)
            due[1]()
        for born in [each for each in self.newborn if each[0] <= self.now_s]:
            self.newborn.remove(born)
            self.born(born[1], born[2])
        self.spheres = [sphere for sphere in self.spheres if sphere.alive]
        self._silences()
        moved = False
        for sphere in self.chance.sample(self.spheres, len(self.spheres)):
            if sphere.link.toy_line.wire is None and sphere.alive and sphere.frozen_until_s <= self.now_s:
                self.connect(sphere)
            if sphere.alive:
                moved |= sphere.turn()
                self.strike()
        self._idle = 0 if moved else self._idle + 1
        self.client.turn()
        for host in list(self.hosts):
            code = host.turn(dt_s)
            self.strike()
            if code is not None:
                self._exits(host, code)

    def _silences(self) -> None:
        for host in self.hosts:
            for wire in host.gate.wires:
                wire.fall_silent(self.now_s)
        for sphere in self.spheres:
            line = sphere.link.toy_line.wire
            if line is None:
                continue
            if sphere.frozen_until_s - self.now_s > 0 and self.now_s - sphere.stopped_s > self.silence_s:
                line.cut()
            if line.host.stopped_until_s > self.now_s and self.now_s - line.host.stopped_s > self.silence_s:
                line.cut()

    def _exits(self, host: Host, code: int) -> None:
        self.hosts.remove(host)
        for wire in host.gate.wires:
            wire.cut()
        if code == FENCED:
            self.say(host.name, "control is fenced, and acts no more")
            self.mark("control fenced")
            mending.fenced(self, host)
            return
        assert host.server is not None and host.server.state.ended is not None
        self.ended = host.server.state.ended.status
        if host is self.host:
            self._audit(host)

    def run(self) -> str:
        """To the end, which there has to be. Raises Broken."""
        bound_s = BOUND_S + BOUND_SILENCES * self.silence_s
        while not self.ended:
            self.step()
            if self.now_s - self.heal_s > bound_s:
                laws.the_run_ends_in_time(self.now_s - self.heal_s, bound_s, self._where())
        self.mark(f"run {self.ended}")
        return self.ended

    def _where(self) -> str:
        server = self.host.server
        if server is None:
            return "control is away"
        alarm = alarm_of(server.state, self.host.awake_s)
        return alarm or ", ".join(f"{each}: {each.link.standing.phase.value}" for each in self.spheres)

    def _audit(self, host: Host) -> None:
        """What the ledger and metrics.jsonl say in the end."""
        server = host.server
        assert server is not None
        state, ledger = server.state, server.ledger
        if state.begun is None or self.is_spoilt:
            return
        if self.lost_disk:
            heard = [each for each in self.spheres if each.link.heard.incarnation == state.incarnation]
            kept = {row for each in heard if each.finished and each.is_in for row in each.link.rows_kept}
            laws.what_spheres_kept_is_filled_in(kept, ledger.rows_after(0))
            return
        rows = ledger.rows_after(0)
        if rows and self.counts["control up"] == 1:  # else who said otherwise is forgotten
            held = {each.weights.check for each in self.spheres if each.finished and each.is_in}
            laws.a_sick_claim_does_not_stand(rows[-1].check, held, rows[-1].version)
        laws.rows_say_which_order_held(rows, state.orders)
        laws.versions_are_the_clean_ones(rows, state.orders, self.units, self.flipped)
        laws.a_version_has_one_line(host.disk.metrics, rows[-1].version if rows else 0)

    def close(self) -> None:
        """Drop the disks."""
        for host in {id(each): each for each in (*self.hosts, self.host, *self.retired)}.values():
            host.close()
