"""Who and what the others wait for, from the newest versions of all spheres; empty words are not said.

Two loaded cores jitter: now this sphere is last, now that one. So a sphere is named once others have lost a notable
part of a step to it in three of four of their newest versions: a coin seldom falls so, and one long wait, such as a
first step's, names nobody. A delay that begins now shows when it fills so much of the newest 20 versions.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping

from .status import Link, Totals, Waited
from .totals import Lap, merged

OFTEN = 3 / 4
"""The part of the newest versions in which a sphere must have cost that much."""

NOTABLE = 0.05
"""The part of a step that a wait, or a round trip, must cost before anyone is named for it."""

MOST = 2 / 3
"""The part of all waiting that a whole run's slowest sphere must account for: with two equals, each has half."""


def slowest(laps_by_path: Mapping[str, tuple[Lap, ...]]) -> Waited | None:
    """The sphere that the steps are late for, if that is a notable part of most of them."""
    last = Counter([lap.slowest for path, laps in laps_by_path.items() for lap in laps if lap.slowest != path])
    name = max(last, key=lambda path: last[path], default=None)
    if name is None:
        return None
    others = [lap for path, laps in laps_by_path.items() if path != name for lap in laps]
    if last[name] < OFTEN * len(others):
        return None
    step_s = statistics.median(lap.seconds.get("step", 0.0) for lap in others)
    waits_s = [lap.seconds.get("wait", 0.0) if lap.slowest == name else 0.0 for lap in others]
    notable = sum(wait_s >= NOTABLE * step_s for wait_s in waits_s)
    if step_s <= 0 or notable < OFTEN * len(others):
        return None
    wait_s = statistics.median(waits_s)
    return Waited(path=name, wait_s=wait_s, share=wait_s / step_s)


def slowest_in_all(totals_by_path: Mapping[str, Totals]) -> Waited | None:
    """The sphere that a whole run was late for: most of all waiting was for it, and that was a notable part of it."""
    held_up = {path: totals.held_up_s for path, totals in totals_by_path.items()}
    if not held_up:
        return None
    name = max(held_up, key=lambda path: held_up[path])
    others = merged(totals for path, totals in totals_by_path.items() if path != name)
    step_s = others.seconds.get("step", 0.0)
    if step_s <= 0 or held_up[name] < NOTABLE * step_s or held_up[name] < MOST * sum(held_up.values()):
        return None
    return Waited(path=name, wait_s=held_up[name] / others.versions, share=held_up[name] / step_s)


def slow_link(round_trips: Mapping[str, float], step_s: float | None) -> Link | None:
    """The link with the longest round trip, if that is a notable part of a step: each step makes several."""
    if not round_trips or not step_s:
        return None
    name = max(round_trips, key=lambda link: round_trips[link])
    if round_trips[name] < NOTABLE * step_s:
        return None
    return Link(name=name, round_trip_s=round_trips[name])
