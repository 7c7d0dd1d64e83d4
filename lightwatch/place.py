"""Where a sphere stands, what its sums contain, which orders hold there, and how it came there."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from .snapshot import Snapshot
from .sync import Position, Standing, Start, Transition, Wanted
from .tail import Outcome, Suspicion, Tail


class Agreed(NamedTuple):
    """A sound tail, and the sums that it is of. paths: of the members that made it, by rank. missed: known here from a
    record alone; its sums are None if they were not complete, or are not needed."""

    tail: Tail
    sums: list[Tensor] | None
    paths: tuple[str, ...] = ()
    missed: bool = False


class Place:
    """One sphere's. outcomes: of the units in its own sums. sums: the reduced buckets, once all have arrived: with
    them a sphere that misses the tail can follow those who had it."""

    def __init__(self) -> None:
        self.position = Position()
        self.in_force = Wanted()
        self.outcomes: dict[int, Outcome] = {}
        self.sums: list[Tensor] | None = None
        self.suspicion: Suspicion | None = None
        self.record: Transition | None = None
        self._known = -1
        self._in_force_at: dict[int, int] = {}

    def begin(self, position: Position) -> None:
        """Stand at this position, with nothing done."""
        self.position, self.outcomes, self.sums = position, {}, None

    def move(self, agreed: Agreed, position: Position) -> None:
        """Stand at another position, as this tail decided, and keep its record for whoever missed it."""
        start = self.position
        self.begin(position)
        if agreed.paths:
            self.record = Transition(start, self.position, agreed.tail.written(), agreed.paths)

    def standing(self, digest: str | None, snapshot: Callable[[], Snapshot]) -> Standing:
        """What is answered to the roll call."""
        done, has_sums = tuple(sorted(self.outcomes)), self.sums is not None
        return Standing(self.position, digest, done, has_sums, self.in_force.number, self.record, snapshot)

    def hear(self, start: Start) -> None:
        """Which versions of this generation are replays, and what was in force in them."""
        self._known, self._in_force_at = start.known, start.in_force_at

    def order_after(self, version: int, seen: int) -> int:
        """The order in force from `version` on, which a tail that says `seen` has made; never an older one than now.

        A replay obeys what held when the version was first made: what was ordered since then must not change its bits.
        """
        if version <= self._known:
            seen = max((entry for entry in self._in_force_at.items() if entry[0] <= version), default=(0, 0))[1]
        return max(self.in_force.number, seen)
