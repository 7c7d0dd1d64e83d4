"""What happens to a run from outside: faults, newcomers and orders, all drawn before it begins, each with a number.

So one of them can be left out without changing any other. A theme makes some kinds frequent.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from control.tree import parse_tree
from tests.simulation.fault import Fault
from tests.simulation.scenes import SCENES

TRIGGERS: dict[str, int] = {
    "before View": 12, "after View": 12, "before Go": 12, "after Go": 12, "before End": 4, "after End": 4,
    "before Welcome": 8, "sphere said Ready": 12, "sphere heard View": 12, "sphere heard Go": 12,
    "sphere heard Orders": 8, "tail entered": 25, "version made": 25, "closing tail": 4, "go record": 2,
    "go fetch": 3, "overflow": 4, "generation broke": 5, "write": 160,
}  # fmt: skip
"""What a fault may wait for, and for which of these at most."""

MOMENTS_OF_CONTROL = ("before View", "after View", "before Go", "after Go", "before End", "after End", "write")

DEATHS_OF_CONTROL = ("control dies", "power cut", "lonely call")

KINDS: dict[str, dict[str, int]] = {
    "deaths": {"sphere dies": 8, "group dies": 2, "collective breaks": 3, "sphere hangs": 1, "joiner": 1, "rate": 4},
    "network": {
        "connection breaks": 3, "deaf upwards": 3, "deaf downwards": 3, "deaf both ways": 3, "peers apart": 3,
        "peers apart one way": 3, "collective breaks": 3, "sphere stops": 3, "sphere dies": 1, "rate": 3,
    },
    "control": {
        "control dies": 8, "lonely call": 2, "control stops": 2, "sphere dies": 4, "rate": 5, "again": 2, "stop": 1,
    },
    "blackout": {"all die": 5, "group dies": 3, "sphere dies": 3, "control dies": 3, "rate": 6, "connection breaks": 1},
    "disk": {"power cut": 4, "disk lost": 3, "control dies": 2, "sphere dies": 3, "all die": 1, "rate": 5, "joiner": 1},
    "two controls": {"stale control": 4, "succeeded": 4, "control dies": 1, "sphere dies": 2, "rate": 3, "joiner": 1},
    "orders": {
        "pause": 5, "resume": 4, "rate": 6, "again": 5, "stop": 1, "sphere dies": 3, "control dies": 3, "joiner": 1,
        "connection breaks": 2,
    },
    "flapping": {
        "connection breaks": 6, "deaf both ways": 4, "collective breaks": 6, "sphere stops": 2, "lonely call": 5,
        "one is left": 2,
    },
    "sick": {"memory flips": 4, "update flips": 4, "sphere dies": 2, "control dies": 1, "rate": 2, "slow": 3},
    "leaving": {
        "drain": 8, "joiner": 3, "rate": 2, "control dies": 3, "slow": 1, "again": 1, "sphere dies": 1, "pause": 1,
        "resume": 1,
    },
    "growth": {"joiner": 5, "slow": 4, "sphere dies": 3, "connection breaks": 2, "rate": 3, "control dies": 2},
}  # fmt: skip
"""Theme -> kind -> how often, against the others."""

MIXED = "mixed"
LONG_STEPS = ("flapping", "relay")
"""Spheres come and go within one step."""
THEMES = sorted((*KINDS, *SCENES))
ORDERS = ("pause", "resume", "stop", "rate", "again")
TREES = ("2", "2", "3", "3", "2x2", "a:2,b:1", "2x2", "a:1,b:2", "4", "a/x:1,a/y:2,b:1", "a:3,b:2", "2x3", "2x2x2",
         "8", "3x3", "a:5,b/x:2,b/y:2", "12", "3x2", "1x2", "a:2,b:2,c:1")  # fmt: skip
"""Of at most 15 nodes; the smaller ones more often."""


def theme_of(seed: int) -> str:
    """Seeds take turns: every second one is of everything."""
    return MIXED if seed % 2 else THEMES[seed // 2 % len(THEMES)]


def tree_of(seed: int) -> str:
    """Mostly small: every sphere costs."""
    chance = random.Random(f"{seed}/tree")
    most = chance.choice((4, 8, 10, 12, 20))
    return TREES[chance.randrange(most)]


def planned(seed: int, lasts_s: float, left_out: Collection[int] = ()) -> list[Fault]:
    """All that happens in the run of this seed within its first silences."""
    chance = random.Random(f"{seed}/faults")
    theme = theme_of(seed)
    if theme in SCENES:
        places = len(parse_tree(tree_of(seed)))
        return [fault for fault in SCENES[theme](chance, places) if fault.number not in left_out]
    weights: dict[str, int] = {}
    for name, kinds in KINDS.items():
        for kind, weight in kinds.items():
            if theme in (name, MIXED):
                weights[kind] = weights.get(kind, 0) + weight
    faults = []
    for number in range(24 if theme in LONG_STEPS else chance.choice((1, 2, 3, 4, 5, 6, 8, 10, 14))):
        (kind,) = chance.choices(list(weights), list(weights.values()))
        fault = _drawn(random.Random(f"{seed}/fault/{number}"), number, kind, lasts_s)
        if number not in left_out:
            faults.append(fault)
    return faults


def _drawn(chance: random.Random, number: int, kind: str, lasts_s: float) -> Fault:
    after = None
    if chance.random() < 0.6:
        names = MOMENTS_OF_CONTROL if kind in DEATHS_OF_CONTROL else tuple(TRIGGERS)
        name = chance.choice(names)
        after = (name, chance.randint(1, TRIGGERS[name]))
    return Fault(
        number=number,
        kind=kind,
        who=(chance.randrange(12), chance.randrange(12)),
        at_s=chance.uniform(0.0, lasts_s),
        after=after,
        for_s=chance.choice((0.2, 0.5, 0.8, 1.2, 2.0, 4.0)) * chance.uniform(0.8, 1.2),
        back_s=chance.choice((0.05, 0.3, 1.0, 3.0)) * chance.uniform(0.5, 1.5),
        proof=chance.random() < 0.85,
        luck=chance.random(),
    )
