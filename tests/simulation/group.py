"""What stands for the groups of a generation: all parts meet here, and may come to some and not to others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from control.protocol import Generation, StoreGet, StoreSet, View
from lightwatch.sync import Position

if TYPE_CHECKING:
    from tests.simulation.process import Process

Waits = Iterator[bool]
"""A main thread's moves: each step of the iterator is one, False says that it only waits."""

SPOILS = 0.4
"""How often a collective that is whole ends badly for a member all the same, once another has left it."""
BUILD_SHARE = 4.0
"""Of silence_s: as spheres.sync has it."""


class Part(NamedTuple):
    """What one member adds to a tail."""

    seen: int
    check: int
    deal: int
    taken: tuple[int, ...]


class PeerLost(Exception):
    """A collective, or the building of groups, broke. gone: whom this member can't reach, if it has looked."""

    def __init__(self, why: str, gone: list[int] | None = None) -> None:
        super().__init__(why)
        self.gone = gone or []


class Meetings:
    """Of one world. Keys are a generation, a position and what meets there."""

    def __init__(self) -> None:
        self.sums: dict[tuple[Generation, Position, str], dict[int, Counter[tuple[int, int]]]] = {}
        self.parts: dict[tuple[Generation, Position], dict[int, Part]] = {}
        self.gave_up: dict[Generation, set[int]] = {}

    def leave(self, generation: Generation, sphere: int) -> None:
        """Its sockets of that generation are shut: whoever waits for it hears of it."""
        self.gave_up.setdefault(generation, set()).add(sphere)


class Group:
    """One member's groups in one generation."""

    def __init__(self, owner: Process, view: View) -> None:
        self.ids = [member.sphere for member in view.members]
        self._owner = owner
        self._world = owner.world
        self._generation = view.generation

    def build(self) -> Waits:
        """Meet in control's store, then connect. Raises PeerLost."""
        link, world = self._owner.link, self._world
        until_s = world.now_s + BUILD_SHARE * world.silence_s
        me = link.heard.sphere
        keys = [f"run/{sphere}" for sphere in self.ids]
        for message in (
            StoreSet(generation=self._generation, request=0, key=f"run/{me}", value=b"here"),
            StoreGet(generation=self._generation, request=0, keys=keys),
        ):
            number = link.ask(message)
            while link.reply(number) is None:
                yield False
                self._is_over()
                if world.now_s > until_s:
                    raise PeerLost("control's store did not answer")
        while gone := self.gone():
            yield False
            self._is_over()
            self._is_left()
            if world.now_s > until_s:
                raise PeerLost("the groups could not be built", gone)
        yield True

    def reduce(self, position: Position, kind: str, own: Counter[tuple[int, int]]) -> Iterator[bool]:
        """Add to the sums and wait until they are whole."""
        met = self._world.meetings.sums.setdefault((self._generation, position, kind), {})
        met[self._owner.link.heard.sphere] = own
        return self._wait(met)

    def tail(self, position: Position, part: Part) -> Iterator[bool]:
        """Add to the tail and wait until it is whole."""
        met = self._world.meetings.parts.setdefault((self._generation, position), {})
        met[self._owner.link.heard.sphere] = part
        return self._wait(met)

    def summed(self, position: Position, kind: str) -> Counter[tuple[int, int]]:
        total: Counter[tuple[int, int]] = Counter()
        for part in self._world.meetings.sums[self._generation, position, kind].values():
            total.update(part)
        return total

    def parts(self, position: Position) -> list[Part]:
        """By rank."""
        met = self._world.meetings.parts[self._generation, position]
        return [met[sphere] for sphere in self.ids]

    def gone(self) -> list[int]:
        """Whom this member does not reach now."""
        me = self._owner.link.heard.sphere
        return [other for other in self.ids if other != me and not self._world.reaches(me, other)]

    def _wait(self, met: dict[int, Counter[tuple[int, int]]] | dict[int, Part]) -> Waits:
        owner, world = self._owner, self._world
        since_s = world.now_s
        while True:
            whole = len(met) == len(self.ids)
            yield whole
            if owner.breaks:
                owner.breaks = False
                raise PeerLost("a collective broke")
            if len(met) == len(self.ids) and not any(world.is_deaf_to(self._me, other) for other in self.ids):
                if self._has_left() and owner.chance.random() < SPOILS:
                    raise PeerLost("a peer left while the last of it was on its way")
                return
            self._is_over()
            self._is_left()
            if world.now_s - since_s > world.silence_s and (gone := self.gone()):
                raise PeerLost(f"{gone} can't be reached", gone)

    @property
    def _me(self) -> int:
        return self._owner.link.heard.sphere

    def _has_left(self) -> bool:
        gave_up = self._world.meetings.gave_up.get(self._generation, set())
        return self._owner.link.heard.ends(self._generation) or not gave_up.isdisjoint(self.ids)

    def _is_over(self) -> None:
        if self._owner.link.heard.ends(self._generation):
            raise PeerLost("the generation is over")

    def _is_left(self) -> None:
        gave_up = self._world.meetings.gave_up.get(self._generation)
        if gave_up and not gave_up.isdisjoint(self.ids) and self._owner.chance.random() < 0.7:
            raise PeerLost("a peer closed its connection")
