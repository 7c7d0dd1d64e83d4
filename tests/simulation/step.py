"""The step of a simulated sphere: compute what was dealt, sum it, agree in a tail, and only then change anything."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, cast

from control.protocol import Phase, Wanted
from lightwatch.metrics import StepReport
from lightwatch.place import Agreed
from lightwatch.sync import GenerationEnded, Position
from spheres.words import position_of, row_of, wire_position
from tests.simulation import laws
from tests.simulation.group import Group, Part, PeerLost, Waits
from tests.simulation.laws import updated
from tests.simulation.process import Finds, Process


class Tail:
    """What all parts of a tail come to: as much of it as a record needs."""

    def __init__(self, seen: int, owners: list[int]) -> None:
        self.seen, self.owners = seen, owners

    def written(self) -> bytes:
        return json.dumps([self.seen, self.owners]).encode()


class Steps(Process):
    """What Stepper and TreeSync do in a step."""

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
        wanted = self.link.heard.orders[number - 1] if number else Wanted()
        units = shares.of(self.sphere, place.position, training, 0, wanted)
        self.link.stand(closing=not training)
        self._progress(Phase.COMPUTING, len(units))
        for unit in [each for each in units if each not in place.outcomes]:
            yield True
            place.outcomes[unit] = cast(Any, place.position.attempt)
            self._units += 1
            self.world.effort.computed(self, unit)
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
        odd = [sphere for sphere, check in zip(group.ids, checks, strict=True) if check != most]
        self.place.sums = None
        if 2 * count <= len(checks) or self.sphere in odd:
            self._sick("it stands apart in the weights")
        self._freeze(f"{odd[0]} stands apart in the weights", [], odd[0])
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
            world.flipped.add(before.version + 1)
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
            lineage=place.position.lineage,
        )  # fmt: skip
        self._units = 0
        self._report(told)

    def _report(self, told: StepReport) -> None:
        assert self.view is not None
        self.link.send(row_of(told, self.view, [], {}))
        self.link.stand(in_force=told.in_force)
