"""Which faults, upon whom, and when: made from a seed alone, before anything runs.

Laws
  1. A plan is made over a run's progress: a version, and a part of a step's time after it. So each fault falls inside
     the run, however fast that is, with some versions before the first and after the last.
  2. The same seed, tree, steps and counts make the same plan.
  3. A fault that would take the last sphere that holds the newest state waits; only a blackout takes all.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, fields

from ..errors import ConfigError

STEPS_LEAST = 10
BEFORE_FIRST = 2
"""The first fault's version at least: the run has been founded, and one step was finished."""
AFTER_LAST = 0.1
"""The part of the run behind the last fault."""
AT_ONCE = 0.2
"""The part of faults that strike within a step's time of the one before, while that one is being healed."""
STOP_LEAST_S, STOP_MOST_S = 0.1, 10.0
CHILDREN_MOST = 12

STOPPED = ("sphere", "control", "supervisor", "template")
ONE_OF_ITS_KIND = {"control", "template"}


@dataclass(frozen=True)
class Counts:
    """How many faults of each kind."""

    sphere_kills: int = 10
    supervisor_kills: int = 1
    template_kills: int = 1
    control_kills: int = 3
    both_kills: int = 1
    stops: int = 3
    joins: int = 2
    blackouts: int = 0
    save_kills: int = 2

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) < 0:
                flag = "--" + each.name.replace("_", "-")
                raise ConfigError(f"{flag} must be at least 0, got {getattr(self, each.name)} [LW002]")

    @property
    def kinds(self) -> list[str]:
        """One word for each fault. Stops go round the roles, beginning with spheres."""
        stops = [f"{STOPPED[number % len(STOPPED)]}-stop" for number in range(self.stops)]
        return [
            *["sphere-kill"] * self.sphere_kills,
            *["supervisor-kill"] * self.supervisor_kills,
            *["template-kill"] * self.template_kills,
            *["control-kill"] * self.control_kills,
            *["both-kill"] * self.both_kills,
            *stops,
            *["join"] * self.joins,
            *["blackout"] * self.blackouts,
            *["save-kill"] * self.save_kills,
        ]


NO_FAULTS = Counts(0, 0, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Fault:
    """One planned fault.

    target: a sphere's path, `control`, `template`, or `all` for a blackout. It is due once `version` was made, and
    `part` of a clean step's time after; a save-kill then waits until a checkpoint is being written. for_s: of a stop,
    until SIGCONT.
    """

    kind: str
    target: str
    version: int
    part: float
    for_s: float = 0.0

    def takes(self, paths: Iterable[str]) -> set[str]:
        """The spheres, among these, that have no state left, or can't be asked for it, once it has struck."""
        if self.kind == "blackout":
            return set(paths)
        return {self.target} & set(paths) if self.kind != "join" else set()


def make_plan(seed: int, paths: tuple[str, ...], steps: int, counts: Counts) -> tuple[Fault, ...]:
    """All faults in the order in which they are due. Raises ConfigError where there is no room for them."""
    if steps < STEPS_LEAST:
        raise ConfigError(f"chaos needs --steps of at least {STEPS_LEAST}, got {steps} [LW002]")
    if len(paths) < 2:
        raise ConfigError(f"chaos needs a tree of at least 2 spheres, got {len(paths)} [LW004]")
    chance = random.Random(f"chaos {seed}")
    kinds = counts.kinds
    chance.shuffle(kinds)
    grown, plan = list(paths), []
    for kind, moment in zip(kinds, _moments(chance, len(kinds), steps), strict=True):
        target = _target(chance, kind, paths, grown)
        if kind == "join":
            grown.append(target)
        for_s = STOP_LEAST_S * (STOP_MOST_S / STOP_LEAST_S) ** chance.random() if kind.endswith("-stop") else 0.0
        version = math.floor(moment)
        plan.append(Fault(kind, target, version, round(moment - version, 3), round(for_s, 3)))
    return tuple(plan)


def _moments(chance: random.Random, count: int, steps: int) -> list[float]:
    """When, in versions: anywhere between the ends, some of them close behind the one before."""
    last = steps - max(2, math.ceil(AFTER_LAST * steps))
    moments = sorted(chance.uniform(BEFORE_FIRST, last) for _ in range(count))
    for place in range(1, count):
        if chance.random() < AT_ONCE:
            moments[place] = moments[place - 1] + chance.random()
    return sorted(min(moment, last + 0.999) for moment in moments)


def _target(chance: random.Random, kind: str, paths: tuple[str, ...], grown: list[str]) -> str:
    if kind == "join":
        return new_path(chance, grown)
    if kind == "blackout":
        return "all"
    if kind == "save-kill":
        return chance.choice([*writers_among(paths), "control"])
    role = kind.partition("-")[0]
    return role if role in ONE_OF_ITS_KIND else chance.choice(paths)


def writers_among(paths: tuple[str, ...]) -> list[str]:
    """Who writes checkpoints: the spheres of the first one's host."""
    home = paths[0].rpartition("/")[0]
    return [path for path in paths if path.rpartition("/")[0] == home]


def new_path(chance: random.Random, paths: list[str]) -> str:
    """A path beside a sphere, with the lowest number that is free. Raises ConfigError if every node is full."""
    homes = sorted({path.rpartition("/")[0] for path in paths})
    chance.shuffle(homes)
    for home in homes:
        inside = f"{home}/" if home else ""
        children = {path.removeprefix(inside).partition("/")[0] for path in paths if path.startswith(inside)}
        if len(children) < CHILDREN_MOST:
            number = next(number for number in range(CHILDREN_MOST) if str(number) not in children)
            return f"{inside}{number}"
    raise ConfigError(f"--joins: every node of the tree has {CHILDREN_MOST} children already; join fewer [LW004]")


def may_strike(fault: Fault, holders: set[str]) -> bool:
    """Whether somebody who holds the newest state is left. Blackouts are what they are."""
    return fault.kind == "blackout" or bool(holders - fault.takes(holders)) or not fault.takes(holders)
