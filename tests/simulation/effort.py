"""Who computed which micro-batch how often, where nothing happens that could cost one a second time."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from lightwatch.sync import Position
from tests.simulation import laws

if TYPE_CHECKING:
    from tests.simulation.step import Steps
    from tests.simulation.world import World

GENTLE = frozenset({"drain", "joiner", "rate", "again", "pause", "resume", "stop", "slow"})
"""Kinds of faults that lose nothing that anybody has computed. Who is late at a control that starts anew does."""
NOT_GENTLE = ("left too late", "go load", "SphereExpelled")
"""What may come of them, and does."""


class Effort:
    """Of one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._gentle = {fault.kind for fault in world.faults} <= GENTLE
        self._computed: Counter[tuple[Position, int]] = Counter()

    def computed(self, sphere: Steps, unit: int) -> None:
        """A micro-batch was computed."""
        at = (sphere.place.position, unit)
        self._computed[at] += 1
        if self._gentle and not any(self._world.counts[name] for name in NOT_GENTLE):
            laws.who_leaves_costs_no_repetition(self._computed[at], at, sphere)
