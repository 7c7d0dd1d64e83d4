"""A sphere of the simulated world: the shipped link, outbox, place, shares and words; a toy computes, sums and fetches.

`_run` is its main thread, as Loop, Stepper and TreeSync have it together; a `yield` is a place where anything may happen.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from control.protocol import Closed, End, Failed, Go, Hello, Memory, Phase, StoreReply, Tick, ToSphere, View, Welcome
from lightwatch.metrics import StepReport
from lightwatch.place import Agreed, Place
from lightwatch.sync import GenerationEnded, How, Position, Start, Transition
from lightwatch.sync import Wanted as Obeyed
from spheres.shares import Shares
from spheres.state import Heard
from spheres.words import position_of, ready_of, row_of, start_of, wire_position
from tests.simulation import laws
from tests.simulation.group import Group, Part, PeerLost, Waits
from tests.simulation.laws import Weights, updated
from tests.simulation.link import ToyLink

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")
Finds = Generator[bool, None, T]


class Leaves(Exception):
    """The process ends itself. succeeded: its supervisor starts another."""

    def __init__(self, why: str, succeeded: bool) -> None:
        super().__init__(why)
        self.succeeded = succeeded


class Tail:
    """What all parts of a tail come to: as much of it as a record needs."""

    def __init__(self, seen: int, owners: list[int]) -> None:
        self.seen, self.owners = seen, owners

    def written(self) -> bytes:
        return json.dumps([self.seen, self.owners]).encode()


class Sphere:
    """One process. pace_s: of a micro-batch, as it measures itself."""

    def __init__(self, world: World, path: str, pid: int, former: int, chance: random.Random) -> None:
        self.world, self.path, self.pid, self.chance = world, path, pid, chance
        self.identity = str(pid).encode()
        hello = Hello(run_id="run", path=path, pid=pid, host="here", former=former, port=1)
        self.link = ToyLink(self, hello, world.silence_s / 4)
        self.alive = True
        self.stopped_s = self.frozen_until_s = self.hung_until_s = 0.0
        self.breaks = False
        self.flips = ""
        self.pace_s = world.pace_of(path)
        self.place = Place()
        self.weights = Weights()
        self.holds_state = False
        self.finished = False
        self.offered: tuple[tuple[int, int], Position, Weights] | None = None
        self.view: View | None = None
        self.go: Go | None = None
        self._generation = (0, 0)
        self._group: Group | None = None
        self._shares: Shares | None = None
        self._reported = -1
        self._closings = self._computing = self._units = 0
        self._look_s = float("inf")
        self._main = self._run()

    def __repr__(self) -> str:
        return f"{self.path}#{self.link.heard.sphere}"

    @property
    def sphere(self) -> int:
        return self.link.heard.sphere

    @property
    def generation(self) -> tuple[int, int]:
        """The one that the main thread has come to."""
        return self._generation

    @property
    def is_in(self) -> bool:
        """Whether it takes part in a generation that was told to go."""
        return self._shares is not None

    # ---------------------------------------------------------------- turns, and what ends them

    def turn(self) -> bool:
        """Hear, move, say; whether anything moved."""
        now_s, moved = self.world.now_s, False
        if self.frozen_until_s > now_s:
            return False
        self.link.turn(now_s, self.chance.choice((0, 1, 2, 8)))
        if self._look_s <= now_s:
            self._look()
        if self.hung_until_s > now_s:
            return False
        for _ in range(self.chance.randrange(self.world.moves)):
            if not self.alive or not self._move():
                break
            moved = True
            self.world.strike()
        if self.alive:
            self.link.flush()
        return moved

    def _move(self) -> bool:
        try:
            return next(self._main)
        except StopIteration:
            self.world.say(self, "leaves, all is done")
            self.world.gone(self, succeeded=False)
        except Leaves as error:
            self.world.say(self, f"leaves: {error}")
            self.world.gone(self, error.succeeded)
        return False

    def thrown_out(self, code: int) -> None:
        """The link obeys Expelled at once."""
        assert self.link.heard.expelled is not None
        self.world.say(self, f"is thrown out: {self.link.heard.expelled.text}")
        self.world.gone(self, succeeded=True)

    def has_heard(self, message: ToSphere) -> None:
        """A message that changed what the link knows."""
        world = self.world
        match message:
            case Tick() | StoreReply():
                return
            case View():
                world.say(self, f"is called to {message.generation} of {laws.members_of(message.members)}")
                world.heard_of(message.generation, "members", laws.members_of(message.members))
            case Go():
                world.say(self, f"is told to go {message.how.value} at {tuple(position_of(message.position))}")
                start = (message.position, message.in_force, message.known, sorted(message.deal.items()))
                world.heard_of(message.generation, "start", start)
            case End():
                closed = self.place.position.closing > 0 or not self.is_in or world.is_over(self._generation)
                laws.the_end_is_agreed(message.status == "completed", closed, self)
            case Welcome():
                world.say(self, f"is welcomed by control {message.incarnation}")
            case _:
                pass
        world.mark(f"sphere heard {type(message).__name__}")

    def _until(self, pick: Callable[[Heard], T | None]) -> Finds[T]:
        """As Link.wait."""
        while True:
            heard = self.link.heard
            found = pick(heard)
            if found is not None:
                return found
            if heard.refused is not None:
                raise Leaves(f"refused: {heard.refused.text}", succeeded=True)
            if heard.end is not None:
                raise Leaves(f"the run has {heard.end.status}", succeeded=False)
            yield False

    # ---------------------------------------------------------------- in and out of generations

    def _run(self) -> Waits:
        yield from self._until(lambda heard: heard.sphere or None)
        self.link.stand(phase=Phase.ADMITTED)
        self.link.send(self.world.proof)
        while True:
            try:
                yield from self._enter()
                if not self.finished:
                    while self.place.position.version < self.world.last and not (yield from self._honours_a_stop()):
                        yield from self._take_step()
                    yield from self._close()
                    self.finished = True
                if (yield from self._leave()):
                    return
            except GenerationEnded:
                outcomes = self.place.outcomes
                self.place.outcomes = {unit: each for unit, each in outcomes.items() if unit < self._computing}

    def _newer_view(self, heard: Heard) -> View | None:
        return heard.view if heard.generation > self._generation else None

    def _enter(self) -> Waits:
        place = self.place
        start = yield from self._begin()
        place.hear(start)
        self.world.mark(f"go {start.how.value}{' keep' if start.keep and place.outcomes else ''}")
        match start.how:
            case How.HERE if not start.keep:
                place.begin(place.position)
            case How.RECORD:
                yield from self._follow(start.record)
            case How.FETCH | How.LOAD:
                if start.position[1:3] < ((self.world.last, self._closings) if self.finished else (0, 0)):
                    self._sick("the run is taken up again behind this process' script")
                yield from self._fetch(start)
        laws.a_go_can_be_obeyed(place.position == start.position, f"is not at {start.position}: {place.position}", self)
        self._stand(start)

    def _begin(self) -> Finds[Start]:
        self._leave_generation()
        while True:
            view = yield from self._until(self._newer_view)
            if not self._enter_view(view):
                continue
            if self._group is not None and self._group.ids[0] == self.sphere and not self.holds_state:
                self.world.write_v0(self.place.position)
            yield True
            standing = self.place.standing(self.weights.digest, lambda: cast(Any, None))
            readable = self.world.reads_v0(self.path)
            self.link.send(ready_of(view.generation, standing, holds_state=self.holds_state, has_v0=readable))
            self.world.mark("sphere said Ready")
            go = yield from self._until(lambda heard: self._newer_view(heard) or heard.go)
            if isinstance(go, Go) and (yield from self._obey(view, go)):
                return start_of(go)

    def _enter_view(self, view: View) -> bool:
        self._leave_generation()
        self._generation, self.view = view.generation, view
        ids = [member.sphere for member in view.members]
        left_out = self.sphere not in ids
        self.link.stand(
            phase=Phase.FROZEN, generation=view.generation, accuses=0, unreachable=ids if left_out else []
        )
        self._group = Group(self, view)
        self._look_s = self.world.now_s + self.world.silence_s / 2 if left_out else float("inf")
        if not left_out:
            self.world.by_sphere[self.sphere] = self
        return not left_out

    def _obey(self, view: View, go: Go) -> Finds[bool]:
        laws.a_fresh_sphere_founds_nothing(
            go.generation != self.world.founding, self.holds_state or go.how.value != "here", self
        )
        self.holds_state = self.holds_state or go.how.value == "here"
        self.link.remember(Memory(generation=view.generation, members=view.members, position=go.position))
        self.link.stand(phase=Phase.BUILDING)
        assert self._group is not None
        try:
            yield from self._group.build()
        except PeerLost as error:
            self._freeze(str(error), error.gone)
            return False
        self.go, self._shares = go, Shares(go, self._group.ids)
        if go.how.value == "here":
            self._serve()
        return True

    def _leave_generation(self) -> None:
        if self._generation != (0, 0):
            self.world.meetings.leave(self._generation, self.sphere)
        self._shares = self.go = self.offered = None

    def _freeze(self, why: str, gone: list[int], accuses: int = 0) -> None:
        self.world.say(self, f"breaks off: {why}")
        self.world.mark("generation broke")
        self.world.meetings.leave(self._generation, self.sphere)
        self.offered = None
        self.link.stand(phase=Phase.FROZEN, failed_in=self._generation, accuses=accuses, unreachable=gone)
        self._look_s = self.world.now_s + self.world.silence_s / 2

    def _break_off(self, why: str, gone: list[int] | None = None) -> NoReturn:
        self._freeze(why, gone or [])
        raise GenerationEnded(why)

    def _look(self) -> None:
        """Who can't be reached: once by whoever broke off, again and again by whoever is left out."""
        self._look_s = float("inf")
        if self._group is None or self.link.heard.ends(self._generation):
            return
        gone = self._group.gone()
        if self.sphere not in self._group.ids:
            self._look_s = self.world.now_s + self.world.silence_s / 2
        elif not gone or self.link.standing.failed_in != self._generation:
            return
        self.link.stand(unreachable=gone)

    def _sick(self, why: str) -> NoReturn:
        self.world.mark("sphere is sick")
        self.link.send(Failed(text=why, sick=True))
        raise Leaves(f"sick: {why}", succeeded=True)

    # ---------------------------------------------------------------- coming to where a generation begins

    def _follow(self, record: Transition | None) -> Waits:
        place = self.place
        ok = record is not None and record.start == place.position
        laws.a_go_can_be_obeyed(ok, f"stands at {place.position}, and is to follow {record}", self)
        assert record is not None
        self._refuse_what_changed()
        seen, owners = json.loads(record.tail)
        agreed = Agreed(cast(Any, Tail(seen, owners)), place.sums, record.paths, missed=True)
        if record.end.closing > record.start.closing:
            place.move(agreed, record.end)
        else:
            yield from self._act(agreed)

    def _fetch(self, start: Start) -> Waits:
        go, world = self.go, self.world
        assert go is not None
        self.link.stand(phase=Phase.FETCHING)
        weights = Weights()
        if start.how is How.FETCH:
            weights = yield from self._fetched(go)
        else:
            laws.a_go_can_be_obeyed(world.reads_v0(self.path), "is to load v0, which it can't read", self)
        if start.digest is not None and not weights.spoilt and not world.is_spoilt:
            laws.one_digest_a_version(start.digest, weights.digest, start.position.version, self)
        self.holds_state, self.weights = True, weights
        self.place.in_force = self._obeyed(start.in_force)
        self._closings, self.place.record, self._reported = 0, None, -1
        self.place.begin(start.position)
        self._serve()

    def _fetched(self, go: Go) -> Finds[Weights]:
        world, since_s = self.world, self.world.now_s
        chunks = self.chance.randrange(1, 4)
        while True:
            yield True
            donor = world.by_sphere.get(go.donor)
            if self.link.heard.ends(go.generation):
                self._break_off("the generation is over")
            if donor is None or not donor.alive or not world.reaches(self.sphere, go.donor):
                if world.now_s - since_s > world.silence_s:
                    self._break_off(f"nothing comes from {donor}", [go.donor])
                continue
            if donor.offered is None and (donor.generation > go.generation or donor.link.standing.failed_in >= go.generation):  # noqa: E501 # fmt: skip
                self._break_off(f"{donor} no longer has it")
            if donor.offered is not None and donor.offered[0] == go.generation:
                chunks -= 1
                if chunks <= 0:
                    at = donor.offered[1]
                    ok = at == position_of(go.position)
                    laws.a_go_can_be_obeyed(ok, f"fetches {go.position} from who has {at}", self)
                    return donor.offered[2]

    def _serve(self) -> None:
        self.offered = (self._generation, self.place.position, self.weights)

    def _obeyed(self, number: int) -> Obeyed:
        if number == 0:
            return Obeyed()
        order = self.link.heard.orders[number - 1]
        return Obeyed(order.number, order.paused, order.stopped, order.learning_rate)

    def _stand(self, start: Start) -> None:
        place = self.place
        place.sums = None
        place.in_force = self._obeyed(max(place.in_force.number, start.in_force))
        if self._reported != place.position.version:
            self._reported = place.position.version
            told = StepReport(self._reported, check=self.weights.check, digest=self.weights.digest,
                              in_force=place.in_force.number, how=start.how.value)  # fmt: skip
            self._report(told)
        self.world.stands(self)

    # ---------------------------------------------------------------- a step

    def _progress(self, phase: Phase, dealt: int = 0) -> None:
        if self.link.heard.ends(self._generation):
            raise GenerationEnded("a newer generation was called")
        if self.go is not None and self.offered is None and self.place.position == position_of(self.go.position):
            if not self.finished and not self._tailed:
                self._serve()
        at = wire_position(self.place.position)
        self.link.stand(phase=phase, position=at, units_done=len(self.place.outcomes), units_dealt=dealt)

    @property
    def _tailed(self) -> bool:
        """Whether the first tail of this generation was met: from then on nothing is served."""
        return self.place.record is not None and self.world.tails_met.get((self._generation, self.sphere), False)

    def _take_step(self) -> Waits:
        version = self.place.position.version
        while self.place.position.version == version:
            yield from self._compute(self.world.units)
            agreed = yield from self._agree(self.world.units)
            yield from self._act(agreed)

    def _compute(self, training: int) -> Waits:
        place, shares = self.place, self._shares
        assert shares is not None
        self._computing = training
        if shares.begins_anew(place.position, training):
            self._break_off("a step was begun anew after a part of it had been handed on")
        number = self.link.standing.in_force
        paces = self.link.heard.orders[number - 1].paces if number else {}
        units = shares.of(self.sphere, place.position, training, 0, paces)
        self.link.stand(closing=not training)
        self._progress(Phase.COMPUTING, len(units))
        for unit in [each for each in units if each not in place.outcomes]:
            yield True
            place.outcomes[unit] = cast(Any, place.position.attempt)
            self._units += 1
            self._progress(Phase.COMPUTING, len(units))
        yield True
        self._progress(Phase.REDUCING, len(units))
        self._refuse_what_changed()

    def _refuse_what_changed(self) -> None:
        if self.flips == "memory" and self.holds_state:
            self._sick("its weights are not what was written")

    def _agree(self, training: int) -> Finds[Agreed]:
        place, group, shares = self.place, self._group, self._shares
        assert group is not None and shares is not None
        position, kind = place.position, f"sums {training}"
        own = Counter({(unit, cast(int, attempt)): 1 for unit, attempt in place.outcomes.items()})
        try:
            yield from group.reduce(position, kind, own)
            sums = group.summed(position, kind)
            place.sums = cast(Any, [sums])
            yield True
            if self.link.heard.ends(self._generation):
                raise GenerationEnded("a newer generation was called")
            self.world.enters_tail(self)
            part = Part(self.link.heard.seen, self.weights.check, shares.check, tuple(place.outcomes))
            yield from group.tail(position, part)
        except PeerLost as error:
            self._break_off(str(error), error.gone)
        parts = group.parts(position)
        self.offered = None
        self.world.tails_met[self._generation, self.sphere] = True
        owners = [next((rank for rank, each in enumerate(parts) if unit in each.taken), 0) for unit in range(training)]
        shares.computed(position, owners)
        self._refuse_unequal(parts, group)
        if training:
            laws.each_micro_batch_counts_once(sums, training, position.attempt, self)
        tail = Tail(min(part.seen for part in parts), owners)
        assert self.view is not None
        return Agreed(cast(Any, tail), place.sums, tuple(member.path for member in self.view.members))

    def _refuse_unequal(self, parts: list[Part], group: Group) -> None:
        """As lightwatch.tail.soundness: whoever stands apart from a majority; without one, each that asks."""
        deals = {part.deal for part in parts}
        laws.a_deal_is_everybodys(len(deals), self)
        checks = [part.check for part in parts]
        most, count = Counter(checks).most_common(1)[0]
        if count == len(checks):
            return
        odd = next(rank for rank, check in enumerate(checks) if check != most) if 2 * count > len(checks) else None
        self.place.sums = None
        if odd is None or group.ids[odd] == self.sphere:
            self._sick("it stands apart in the weights")
        self._freeze(f"{group.ids[odd]} stands apart in the weights", [], group.ids[odd])
        raise GenerationEnded("unsound")

    def _act(self, agreed: Agreed) -> Waits:
        place, position = self.place, self.place.position
        if position.version in self.world.overflows and position.attempt == 0:
            self.world.mark("overflow")
            place.move(agreed, position._replace(attempt=1))
            return
        laws.a_go_can_be_obeyed(agreed.sums is not None, "has a record to follow, and no sums", self)
        yield from self._commit(agreed)

    def _commit(self, agreed: Agreed) -> Waits:
        place, world, before = self.place, self.world, self.place.position
        assert agreed.sums is not None
        sums = cast(Counter[tuple[int, int]], agreed.sums[0])
        rate = place.in_force.learning_rate or 0.0
        laws.no_order_is_undone(self.weights.rates, rate, self)
        laws.an_answered_order_holds_from_its_version(world.answered, before.version, place.in_force.number, self)
        self.weights = updated(self.weights, (unit for unit, _ in sums.elements()), rate)
        if self.flips == "update":
            self.weights = self.weights._replace(digest=f"flipped {self.sphere} {self.weights.digest}", spoilt=True)
            self.flips = ""
        order = place.order_after(before.version + 1, cast(Tail, agreed.tail).seen)
        place.in_force = self._obeyed(order)
        place.move(agreed, Position(before.lineage, before.version + 1))
        self._closings = 0
        world.finished_step(self, before)
        yield True
        self._reported = place.position.version
        due = place.position.version % 2 == 0 or place.position.version == world.last
        seconds = {"compute": self._units * self.pace_s, "step": self._units * self.pace_s}
        told = StepReport(
            self._reported, loss=1.0, learning_rate=rate, weight=world.units, samples=world.units, in_force=order,
            check=self.weights.check, digest=self.weights.digest if due else None, attempts=before.attempt + 1,
            own_units=self._units, seconds=seconds, how="record" if agreed.missed else "tail",
        )  # fmt: skip
        self._units = 0
        self._report(told)

    def _report(self, told: StepReport) -> None:
        assert self.view is not None
        self.link.send(row_of(told, self.view, self.place.position.lineage, [], {}))
        self.link.stand(in_force=told.in_force)

    # ---------------------------------------------------------------- pauses and the end

    def _honours_a_stop(self) -> Finds[bool]:
        place = self.place
        if place.in_force.paused and not place.in_force.stopped:
            self._progress(Phase.PAUSED)
            self.world.mark("sphere paused")
            while place.in_force.paused and not place.in_force.stopped:
                number = place.in_force.number + 1
                yield from self._until(
                    lambda heard: heard.seen >= number or heard.ends(self._generation) or None  # noqa: B023
                )
                if self.link.heard.ends(self._generation):
                    raise GenerationEnded("a newer generation was called")
                place.in_force = self._obeyed(number)
                self.link.stand(in_force=number)
        return place.in_force.stopped

    def _close(self) -> Waits:
        place = self.place
        if self._closings == place.position.closing:
            place.begin(place.position)
            yield from self._compute(0)
            agreed = yield from self._agree(0)
            lineage, version, closing, _ = place.position
            place.move(agreed, Position(lineage, version, closing + 1))
            self.world.mark("closing tail")
        self._closings += 1
        self.link.stand(phase=Phase.CLOSING)

    def _leave(self) -> Finds[bool]:
        """Say that all is done here, and wait for the run's end; False: there is another roll call."""
        yield True
        if self.go is not None and self.place.position == position_of(self.go.position):
            self._serve()
        self.link.stand(phase=Phase.CLOSING)
        reason = "stopped" if self.place.in_force.stopped else "completed"
        version = self.place.position.version
        closed = Closed(generation=self._generation, version=version, digest=self.weights.digest, reason=reason)
        self.link.send(closed)
        told = yield from self._until(lambda heard: heard.end or self._newer_view(heard))
        return isinstance(told, End)
