"""What a sphere's rows add up to, and how the sums of several are one.

Laws
  1. A version of a sphere counts once, whether its row comes twice, late, or not at all.
  2. Seconds are added in whole microseconds: no sum depends on the order of its parts, and merging is associative.
  3. Numbers that are no seconds (NaN, negative, beyond a year) are dropped; nobody's report spoils a sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from .protocol import Closed, Row
from .status import Totals, Traffic

RECENT = 20
"""Newest versions of each sphere that are kept one by one: a delay that begins now shows within so many."""

MICRO = 1_000_000
MOST_S, SUM_MOST_S = 3e7, 1e12


class Lap(msgspec.Struct, frozen=True, gc=False):
    """One version as one sphere made it: how long, waiting for whom, how much of its own."""

    at: tuple[int, int]
    """(lineage, version)."""
    seconds: dict[str, float]
    slowest: str | None
    micro_batches: int
    samples: int
    tokens: int


class Account(msgspec.Struct, frozen=True, gc=False):
    """All of one sphere's versions in sums, and the newest one by one, the oldest first."""

    totals: Totals = msgspec.field(default_factory=Totals)
    laps: tuple[Lap, ...] = ()
    newest: tuple[int, int] = (0, -1)
    """Whose traffic and round trips are held."""


def booked(account: Account, row: Row) -> Account:
    """The account with one more row; the same object if it is there already. A row without seconds tells of no step."""
    at = (row.lineage, row.version)
    totals, laps = account.totals, account.laps
    if row.seconds:
        if _is_booked(laps, at):
            return account
        lap = Lap(at, sound(row.seconds), row.slowest, row.own_units, row.own_samples, row.own_weight)
        totals = _with_lap(totals, lap, row.attempts)
        laps = _with_newest(laps, lap)
    if at >= account.newest and (row.traffic or row.round_trips):
        totals = replace(
            totals,
            traffic=row.traffic or totals.traffic,
            round_trips=sound(row.round_trips) or totals.round_trips,
        )
    return Account(totals, laps, max(at, account.newest))


def closed(account: Account, closing: Closed) -> Account:
    """The account at the sphere's end, with its last traffic. Said twice it counts once."""
    totals = replace(account.totals, traffic=closing.traffic or account.totals.traffic)
    return saved(Account(totals, account.laps, account.newest), closing.save_s)


def saved(account: Account, save_s: float) -> Account:
    """The account once the model is written. Said twice it counts once."""
    save = sound({"save": save_s}) if save_s else {}
    totals = replace(account.totals, seconds={**account.totals.seconds, **save})
    return Account(totals, account.laps, account.newest)


def held_up(account: Account, wait_s: float) -> Account:
    """The account of a sphere for which another has waited so long."""
    if wait_s <= 0:
        return account
    held_up_s = _plus_s(account.totals.held_up_s, wait_s)
    return Account(replace(account.totals, held_up_s=held_up_s), account.laps, account.newest)


def wait_s(row: Row) -> float:
    """How long the row's sphere waited for the slowest one."""
    waited_s = row.seconds.get("wait", 0.0)
    return waited_s if 0 <= waited_s < MOST_S else 0.0


def merged(parts: Iterable[Totals]) -> Totals:
    """Several sums as one. Associative and commutative; `Totals()` changes nothing."""
    parts = list(parts)
    return Totals(
        versions=sum(part.versions for part in parts),
        micro_batches=sum(part.micro_batches for part in parts),
        samples=sum(part.samples for part in parts),
        tokens=sum(part.tokens for part in parts),
        retries=sum(part.retries for part in parts),
        seconds=_seconds(part.seconds for part in parts),
        held_up_s=added_s(part.held_up_s for part in parts),
        traffic=_levels(level for part in parts for level in part.traffic),
        round_trips=_round_trips(part.round_trips for part in parts),
    )


def summed(laps: Sequence[Lap]) -> Totals:
    """What these versions add up to, in plain sums: each look at the run asks it of each sphere."""
    seconds: dict[str, float] = {}
    for lap in laps:
        for name, value in lap.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
    return Totals(
        versions=len(laps),
        micro_batches=sum([lap.micro_batches for lap in laps]),
        samples=sum([lap.samples for lap in laps]),
        tokens=sum([lap.tokens for lap in laps]),
        seconds=seconds,
    )


def sound(seconds: dict[str, float]) -> dict[str, float]:
    """Those that are durations."""
    return {name: value for name, value in seconds.items() if 0 <= value < MOST_S}


def added_s(seconds: Iterable[float]) -> float:
    """A sum that does not depend on the order: of whole microseconds."""
    return sum(round(value * MICRO) for value in seconds if 0 <= value < SUM_MOST_S) / MICRO


def _plus_s(one: float, other: float) -> float:
    """The same of two that are durations."""
    return (round(one * MICRO) + round(other * MICRO)) / MICRO


def _is_booked(laps: tuple[Lap, ...], at: tuple[int, int]) -> bool:
    if not laps or at > laps[-1].at:
        return False
    return any(lap.at == at for lap in laps) or (len(laps) == RECENT and at < laps[0].at)


def _with_newest(laps: tuple[Lap, ...], lap: Lap) -> tuple[Lap, ...]:
    late = laps and lap.at < laps[-1].at
    return tuple(sorted((*laps, lap), key=lambda each: each.at)[-RECENT:]) if late else (*laps[1 - RECENT :], lap)


def _with_lap(totals: Totals, lap: Lap, attempts: int) -> Totals:
    """What `merged` makes of these and one lap: every row of every sphere comes by here."""
    seconds = dict(totals.seconds)
    for name, value in lap.seconds.items():
        seconds[name] = _plus_s(seconds.get(name, 0.0), value)
    return replace(
        totals,
        versions=totals.versions + 1,
        micro_batches=totals.micro_batches + lap.micro_batches,
        samples=totals.samples + lap.samples,
        tokens=totals.tokens + lap.tokens,
        retries=totals.retries + max(attempts - 1, 0),
        seconds=seconds,
    )


def _seconds(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    whole: dict[str, int] = {}
    for part in parts:
        for name, value in part.items():
            whole[name] = whole.get(name, 0) + round(value * MICRO)
    return {name: value / MICRO for name, value in whole.items()}


def _levels(parts: Iterable[Traffic]) -> list[Traffic]:
    """Level by level, from the root down. A level's name is kept where all parts agree on it."""
    by_level: dict[int, list[Traffic]] = {}
    for part in parts:
        by_level.setdefault(part.level, []).append(part)
    return [_level(level, by_level[level]) for level in sorted(by_level)]


def _level(level: int, parts: list[Traffic]) -> Traffic:
    nodes = {part.node for part in parts}
    return Traffic(
        level=level,
        node=nodes.pop() if len(nodes) == 1 else "",
        up=sum(part.up for part in parts),
        down=sum(part.down for part in parts),
        least=sum(part.least for part in parts),
        states=sum(part.states for part in parts),
        seconds=added_s(part.seconds for part in parts),
    )


def _round_trips(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    longest: dict[str, float] = {}
    for part in parts:
        for name, seconds in part.items():
            longest[name] = max(seconds, longest.get(name, seconds))
    return longest
