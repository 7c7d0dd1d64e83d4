"""Who and what the others wait for, from the newest versions of all spheres; empty words are not said.

Two loaded cores jitter: now this sphere is last, now that one. So a sphere is named for what a typical step loses to
it, the median over the others' newest versions: it must be the last in more than half of them, and one long wait, such
as a first step's, names nobody. A delay that begins now shows once it fills half of the newest versions.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping

from .status import Link, Totals, Waited
from .totals import Lap, merged

NOTABLE = 0.05
"""The part of a step that a wait, or a round trip, must cost before anyone is named for it."""

MOST = 2 / 3
"""The part of all waiting that a whole run's slowest sphere must account for: with two equals, each has half."""


def slowest(laps_by_path: Mapping[str, tuple[Lap, ...]]) -> Waited | None:
    """The sphere that a typical step is late for, if that is a notable part of the step."""
    last = Counter(
        lap.slowest for path, laps in laps_by_path.items() for lap in laps if lap.slowest not in (None, path)
    )
    if not last:
        return None
    [(name, _)] = last.most_common(1)
    others = [lap for path, laps in laps_by_path.items() if path != name for lap in laps]
    wait_s = statistics.median(lap.seconds.get("wait", 0.0) if lap.slowest == name else 0.0 for lap in others)
    step_s = statistics.median(lap.seconds.get("step", 0.0) for lap in others)
    if name is None or step_s <= 0 or wait_s < NOTABLE * step_s:
        return None
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
