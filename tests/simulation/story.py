"""One seed's run: played, told as a story, and shrunk to the few faults that it takes to break the same law."""

from __future__ import annotations

import logging
from collections import Counter
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import control.outgoing
import control.server
import spheres.link
from tests.simulation.laws import Broken
from tests.simulation.world import World

CLOCK = SimpleNamespace(process_time=lambda: 0.0)
"""A link asks what its process has computed: nothing here may differ from one run to the next."""
TOLD = 120
"""Lines of a story, the last ones."""


class Played(NamedTuple):
    """How a run ended. law: the one that was broken; empty: none was."""

    seed: int
    law: str
    what: str
    counts: Counter[str]
    log: list[tuple[float, str, str]]
    faults: tuple[int, ...]


def played(seed: int, left_out: frozenset[int] = frozenset()) -> Played:
    """The run of this seed, without some of its faults."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    world = World(seed, left_out)
    law = ""
    try:
        with (
            patch.object(control.outgoing, "points", world.points),
            patch.object(control.server, "AwakeClock", lambda: world.points.host),
            patch.object(spheres.link, "time", CLOCK),
        ):
            what = world.run()
    except Broken as error:
        law, what = error.law, str(error)
    except Exception as error:
        law, what = "nobody_breaks", f"{type(error).__name__}: {error}"
    finally:
        world.close()
        logging.disable(disabled)
    return Played(seed, law, what, world.counts, world.log, tuple(fault.number for fault in world.faults))


def shrunk(first: Played, most: int = 60) -> Played:
    """The same law broken by as few of its faults as were found in so many runs."""
    best, left_out = first, frozenset[int]()
    tried = bool(first.law)
    while tried and most > 0:
        tried = False
        for number in best.faults:
            most -= 1
            again = played(first.seed, left_out | {number})
            if again.law == first.law:
                best, left_out, tried = again, left_out | {number}, True
                break
            if most <= 0:
                break
    return best


def told(run: Played) -> str:
    """Time, who and what, line by line."""
    lines = [f"{at_s:8.2f} s  {who:<12} {what}" for at_s, who, what in run.log[-TOLD:]]
    head = f"seed {run.seed}, {len(run.faults)} faults, {len(run.log)} lines: {run.what}"
    return "\n".join([head, *lines, f"{'':>10}  {'law broken':<12} {run.what}" if run.law else ""])


def table(counts: Counter[str]) -> str:
    """What happened in all runs together, and how often."""
    return "\n".join(f"{name:<32}{count:>10,}" for name, count in sorted(counts.items()))
