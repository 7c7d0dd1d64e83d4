"""A sphere of the simulated world, as Loop and TreeSync have it together: in and out of generations, and to the end."""

from __future__ import annotations

import json
from typing import Any, cast

from control.protocol import Closed, End, Go, Memory, Phase, View
from lightwatch.metrics import StepReport
from lightwatch.place import Agreed
from lightwatch.sync import GenerationEnded, How, Position, Start, Transition
from spheres.shares import Shares
from spheres.state import Heard
from spheres.words import position_of, ready_of, start_of
from tests.simulation import laws
from tests.simulation.group import Group, PeerLost, Waits
from tests.simulation.laws import Weights
from tests.simulation.process import Finds
from tests.simulation.step import Steps, Tail


class Sphere(Steps):
    """One process at a path of the tree."""

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
            self.answered = (view.generation, self.world.now_s)
            self.world.mark("sphere said Ready")
            go = yield from self._until(lambda heard: self._newer_view(heard) or heard.go)
            if isinstance(go, Go) and (yield from self._obey(view, go)):
                return start_of(go)

    def _enter_view(self, view: View) -> bool:
        self._leave_generation()
        self._generation, self.view = view.generation, view
        ids = [member.sphere for member in view.members]
        left_out = self.sphere not in ids
        self.link.stand(phase=Phase.FROZEN, generation=view.generation, accuses=0, unreachable=ids if left_out else [])
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
        if start.digest is not None and not world.is_spoilt and not any(each.weights.spoilt for each in world.spheres):
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

    def _stand(self, start: Start) -> None:
        place = self.place
        place.sums = None
        place.in_force = self._obeyed(max(place.in_force.number, start.in_force))
        if self._reported != place.position.version:
            self._reported = place.position.version
            told = StepReport(self._reported, check=self.weights.check, digest=self.weights.digest,
                              in_force=place.in_force.number, how=start.how.value,
                              lineage=place.position.lineage)  # fmt: skip
            self._report(told)
        self.world.stands(self)

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
