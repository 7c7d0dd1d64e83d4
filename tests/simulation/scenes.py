"""Stories in which a few faults come one upon another, each too rare to be met by chance. Seconds are in silence_s."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.simulation.fault import Fault

WORDS = {
    "sphere said Ready": 10, "sphere heard View": 10, "sphere heard Go": 10, "tail entered": 20, "version made": 20,
    "closing tail": 4,
}  # fmt: skip
"""What a sphere has just said or heard when its connection breaks."""
NEWEST = -1


def _relay(chance: random.Random, places: int) -> list[Fault]:
    """One is cut off in a step, then all but another, and that one dies: those who come back have all that is left.

    All in the same step, or the second time when the others have just made a version without the first.
    """
    first, last = chance.sample(range(12), 2)
    made, one = ("version made", places), ("fault deaf both ways", 1)
    begins, cut, cut_s = chance.choice(
        (
            (("sphere heard Go", chance.randint(1, 5)), one, chance.uniform(1.8, 3.8)),
            (made, one, chance.uniform(1.8, 3.8)),
            (made, ("version made", 2 * places - 1), chance.uniform(0.02, 0.4)),
        )
    )
    back_s = chance.uniform(1.5, 3.0)
    dies_s = back_s - chance.uniform(0.1, 0.7)  # first its generation has to begin without the others
    return [
        Fault(0, "deaf both ways", (first, 0), 0.0, begins, for_s=9.0),
        Fault(1, "one is left", (last, 0), 0.0, cut, cut_s, for_s=back_s),
        Fault(2, "sphere dies", (last, 0), 0.0, ("fault one is left", 1), dies_s, back_s=chance.uniform(2.0, 5.0)),
    ]


def _newcomer_alone(chance: random.Random, places: int) -> list[Fault]:
    """Somebody joins, and control hears nobody else."""
    at_s = chance.uniform(1.0, 6.0)
    return [
        Fault(0, "joiner", (chance.randrange(12), 0), at_s),
        Fault(1, "one is left", (NEWEST, 0), at_s + chance.uniform(0.2, 1.6), for_s=chance.uniform(2.0, 6.0)),
    ]


def _adoption(chance: random.Random, places: int) -> list[Fault]:
    """Control's disk is lost; while another one takes the run over, orders come, and it dies again. The first whom it
    hears has come late."""
    lost = ("fault disk lost", 1)
    return [
        Fault(0, "rate", (0, 0), 0.0, ("sphere heard Go", 1), chance.uniform(0.1, 2.0)),
        Fault(1, "joiner", (chance.randrange(12), 0), 0.0, ("version made", chance.randint(1, 2 * places))),
        Fault(2, "disk lost", (0, 0), 0.0, ("fault joiner", 1), chance.uniform(0.5, 6.0), back_s=_soon(chance)),
        Fault(3, "one is left", (NEWEST, 0), 0.0, lost, chance.uniform(0.01, 0.3), for_s=chance.uniform(0.3, 2.5)),
        Fault(4, "control dies", (0, 0), 0.0, lost, chance.uniform(0.5, 4.0), back_s=_soon(chance)),
        Fault(5, "sphere dies", (chance.randrange(12), 0), 0.0, lost, chance.uniform(0.1, 5.0)),
        *(Fault(6 + each, "rate", (0, 0), 0.0, lost, chance.uniform(0.1, 2.5)) for each in range(3)),
    ]


def _soon(chance: random.Random) -> float:
    """How long a control is away."""
    return chance.choice((0.05, 0.3, 1.5))


def _former_control(chance: random.Random, places: int) -> list[Fault]:
    """Spheres that have heard of a second control find the first one again, or a stranger."""
    at_s = chance.uniform(1.0, 4.0)
    later_s = at_s + chance.uniform(0.8, 2.5)
    return [
        Fault(0, "control dies", (0, 0), at_s, back_s=chance.choice((0.05, 0.3))),
        Fault(1, chance.choice(("stale control", "succeeded")), (0, 0), later_s, for_s=chance.uniform(1.0, 4.0)),
        Fault(2, "rate", (0, 0), later_s + chance.uniform(-0.5, 1.0)),
        Fault(3, "sphere dies", (chance.randrange(12), 0), later_s + chance.uniform(-0.5, 2.0)),
    ]


def _lost_words(chance: random.Random, places: int) -> list[Fault]:
    """Connections break just when something was said over them."""

    def breaks(number: int) -> Fault:
        name = chance.choice(tuple(WORDS))
        after = (name, chance.randint(1, WORDS[name]))
        who = (chance.randrange(12), 0)
        return Fault(number, "connection breaks", who, 0.0, after, luck=chance.uniform(0.5, 1.0))

    return [breaks(number) for number in range(8)]


SCENES: dict[str, Callable[[random.Random, int], list[Fault]]] = {
    "relay": _relay,
    "newcomer alone": _newcomer_alone,
    "adoption": _adoption,
    "former control": _former_control,
    "lost words": _lost_words,
}
"""By theme. places: how many spheres the tree begins with."""
