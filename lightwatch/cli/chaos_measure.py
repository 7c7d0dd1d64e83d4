"""What faults cost, from records alone: how soon each was noticed and healed, and what was computed twice.

Laws
  1. A loss counts as noticed when the ledger names it, not when somebody may have known.
  2. A version counts as the survivors' next one only if it was begun after the fault: where a loss was noticed, it is
     of a newer generation. One that was all but finished when the fault struck is no recovery.
  3. What can't be told is None, never 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass, field

from .chaos_records import Generation, Made, Noted

WAKES_S = 2.0
"""So long after SIGCONT a loss may still be the stop's."""


@dataclass(frozen=True)
class Struck:
    """A fault as it happened. at: unix seconds; pids: of those hit, by role; until: SIGCONT, for a stop.

    version: the newest that anyone held; back_at: when control was bound again, or the template ready.
    """

    kind: str
    target: str
    version: int
    at: float
    pids: dict[str, int] = field(default_factory=dict)
    until: float | None = None
    back_at: float | None = None


@dataclass(frozen=True)
class Cost:
    """A fault with its three times in milliseconds: noticed, survivors' next version, its own next version."""

    kind: str
    target: str
    version: int
    at_s: float
    detect_ms: float | None
    recover_ms: float | None
    back_ms: float | None
    for_ms: float | None = None


@dataclass(frozen=True)
class Work:
    """What a run computed and redid.

    redone_steps: finished, and made again. though_held: those of them that a sphere had finished which no fault hit;
    whoever is hit takes what only it had finished along. recomputed_micro_batches: more than one for each place in each
    attempt at each version, from what spheres that finished it have counted; what a killed one had begun is in nobody's
    count.
    """

    versions: int
    redone_steps: int
    recomputed_micro_batches: int
    first_to_last_s: float | None
    though_held: int = 0


def costs(struck: list[Struck], made: list[Made], noted: list[Noted], began_at: float) -> list[Cost]:
    """Each fault's times, in the order in which they struck. made: in the order of time; began_at: of the run."""
    ordered = sorted(struck, key=lambda each: each.at)
    found = []
    for place, fault in enumerate(ordered):
        again = next((each.at for each in ordered[place + 1 :] if each.target == fault.target), float("inf"))
        noticed = _noticed_at(fault, noted, again)
        found.append(
            Cost(
                kind=fault.kind,
                target=fault.target,
                version=fault.version,
                at_s=round(fault.at - began_at, 3),
                detect_ms=_ms(fault, noticed),
                recover_ms=_ms(fault, _recovered_at(fault, made, is_loss=noticed is not None)),
                back_ms=_ms(fault, _back_at(fault, made)),
                for_ms=_ms(fault, fault.until),
            )
        )
    return found


def _noticed_at(fault: Struck, noted: list[Noted], again: float) -> float | None:
    """When the ledger first named the loss, before the same target was hit `again`."""
    if fault.target == "control":
        return fault.back_at  # nobody but its launcher notices, whose new one stands then
    if fault.kind == "join":
        return next((each.at for each in _after(fault, noted) if _came(each) == fault.target), None)
    ids = {each.event["sphere"] for each in noted if each.kind == "SphereCame" and _pid(each) in fault.pids.values()}
    end = min(again, fault.until + WAKES_S) if fault.until is not None else again
    for each in _after(fault, noted):
        if each.at > end:
            return None
        if each.kind in ("SphereLost", "SphereExpelled") and each.event["sphere"] in ids:
            return each.at
        if each.kind == "GenerationProposed" and ids and ids.isdisjoint(_members(each)) and ids & _were(noted, fault):
            return each.at
    return None


def _recovered_at(fault: Struck, made: list[Made], *, is_loss: bool) -> float | None:
    """When the first version came that was begun after the fault, from a sphere that it did not hit."""
    if fault.kind == "join" or fault.target == "template":
        return None  # nobody had anything to recover from
    anew = _next_version(fault, made, fault.at, of_newer_generation=is_loss and fault.target != "control")
    if fault.kind == "sphere-stop" and fault.until is not None:  # it may wake before the others have gone on without it
        woken = _next_version(fault, made, fault.until, of_newer_generation=False)
        return woken if anew is None or not is_loss else min(anew, woken or anew)
    return anew


def _next_version(fault: Struck, made: list[Made], since: float, *, of_newer_generation: bool) -> float | None:
    """When a sphere that was not hit first made a version that nobody held before `since`."""
    before = [each for each in made if each.at <= since]
    newest = max((each.version for each in before), default=-1) if fault.kind != "blackout" else -1
    generation = max((each.generation for each in before), default=(0, 0)) if of_newer_generation else (-1, -1)
    return next(
        (
            each.at
            for each in made
            if each.at > since
            and each.how == "tail"
            and each.path != fault.target
            and each.version > newest
            and each.generation > generation
        ),
        None,
    )


def _back_at(fault: Struck, made: list[Made]) -> float | None:
    """When what was hit works again: a sphere, when it has made a version with the others."""
    if fault.target in ("control", "template"):
        return fault.back_at
    since = fault.until if fault.until is not None else fault.at
    hit = set(fault.pids.values()) if fault.until is None else set()
    for each in made:
        if each.at > since and each.how == "tail" and each.pid not in hit and fault.target in (each.path, "all"):
            return each.at
    return None


def work(made: list[Made], micro_batches: int, hit: Container[int] = ()) -> Work:
    """What was computed, over all lives of all spheres. hit: process ids that a fault struck."""
    generations: dict[int, set[Generation]] = defaultdict(set)
    kept: dict[int, set[Generation]] = defaultdict(set)
    attempts: dict[int, int] = defaultdict(lambda: 1)
    for each in made:
        if each.how == "tail" and each.version > 0:
            generations[each.version].add(each.generation)
            if each.pid not in hit:
                kept[each.version].add(each.generation)
        attempts[each.version] = max(attempts[each.version], each.attempts)
    needed = sum(micro_batches * attempts[version] for version in generations)
    times = first_times(made)
    return Work(
        versions=len(generations),
        redone_steps=sum(len(each) - 1 for each in generations.values()),
        though_held=sum(each > min(by) for version, by in kept.items() for each in generations[version]),
        recomputed_micro_batches=max(0, sum(each.units for each in made) - needed),
        first_to_last_s=times[max(times)] - times[min(times)] if len(times) > 1 else None,
    )


def first_times(made: list[Made]) -> dict[int, float]:
    """When each version was first held by anyone, v0 left out."""
    times: dict[int, float] = {}
    for each in made:
        if each.version > 0:
            times[each.version] = min(each.at, times.get(each.version, each.at))
    return times


def versions_while_dead(struck: list[Struck], made: list[Made]) -> int:
    """Versions that came between a death of control and its next one's being bound."""
    times = first_times(made).values()
    spans = [
        (each.at, each.back_at if each.back_at is not None else float("inf"))
        for each in struck
        if each.until is None and (each.target == "control" or "control" in each.pids)
    ]
    return sum(any(begin < at < end for begin, end in spans) for at in times)


def _after(fault: Struck, noted: list[Noted]) -> list[Noted]:
    # The ledger's times are cut to whole milliseconds: one that followed at once may seem to be a little earlier.
    return [each for each in noted if each.at >= fault.at - 0.001]


def _came(noted: Noted) -> str | None:
    return str(noted.event["hello"]["path"]) if noted.kind == "SphereCame" else None


def _pid(noted: Noted) -> int:
    return int(noted.event["hello"]["pid"])


def _members(noted: Noted) -> set[int]:
    return {int(member["sphere"]) for member in noted.event["members"]}


def _were(noted: list[Noted], fault: Struck) -> set[int]:
    """The members of the newest generation that was called before the fault."""
    called = [each for each in noted if each.kind == "GenerationProposed" and each.at < fault.at]
    return _members(called[-1]) if called else set()


def _ms(fault: Struck, at: float | None) -> float | None:
    return None if at is None else round(1000 * max(0.0, at - fault.at), 1)
