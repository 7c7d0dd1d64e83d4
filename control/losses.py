"""Who is lost: gone, silent, stuck, sick or out of reach. Pure decisions over the state.

A closed connection is a loss after a tenth of silence_s, for it may stand again; whoever else is lost is told so
(expelled), since it may be alive: it leaves, and a successor under another id is welcome.

What is judged is control's own awake time: a control that was stopped finds nobody silent.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from .events import Event, SphereBarred, SphereExpelled, SphereLost
from .protocol import Phase
from .state import Seat, State

SILENCES = 3
"""A sphere that speaks, but whose heartbeats are missing or whose main thread does not move for so many silence_s."""

STEPS = 5
"""Nor is it stuck before so many times the longest step has passed."""

FOUNDING_S = 120.0
"""For the first roll call: one of those who answer it writes the whole state to the disk before."""

GRACE = 0.1
"""Of silence_s: a connection that broke may stand again."""

BROKEN = 0.6
"""Of silence_s: when collectives failed and nobody is lost, so long for somebody to be lost, and for all to find out
whom they can't reach."""

BUILDS = 3
"""Generations that broke in a row without anybody being lost, before the youngest is left out for a while."""

BAR_S = (1.0, 30.0)
"""How long a sphere that its peers can't reach is left out: doubled each time, between these."""


def is_gone(state: State, seat: Seat, now_s: float) -> bool:
    """Whether it is no longer to be counted on: thrown out, replaced, or its connection has been closed for too long.

    A neighbour whose collective broke is a second witness: then the closed connection counts at once.
    """
    if seat.expelled or seat.released or seat.failed is not None or state.sphere_at.get(seat.path) != seat.sphere:
        return True
    if seat.connected:
        return False
    broke = any(other.broke_s is not None for other in state.seats.values())
    return broke or now_s - seat.lost_s >= GRACE * state.silence_s


def is_here(state: State, seat: Seat, now_s: float) -> bool:
    """Whether it could take part in a generation now."""
    if not seat.connected or seat.proof is None or seat.refused or seat.barred_s > now_s:
        return False
    if seat.sphere in state.reach.newcomers:
        return False
    if is_gone(state, seat, now_s) or now_s - seat.heard_s > SILENCES * state.silence_s:
        return False
    return not seat.bars or _reaches_all(state, seat, now_s)


def _reaches_all(state: State, seat: Seat, now_s: float) -> bool:
    """Whether one that was left out would cost the others no generation in vain: it says that it can reach them."""
    if seat.sphere in state.member_ids:
        return True
    if seat.beat is None or seat.beat.generation != state.generation:
        return False
    return all(
        is_gone(state, state.seats[sphere], now_s) for sphere in state.member_ids.intersection(seat.beat.unreachable)
    )


def is_expected(state: State, event: Event) -> bool:
    """Whether it is a connection that ends because its sphere was told that it may go: no loss, for the record."""
    return isinstance(event, SphereLost) and (state.ended is not None or state.seats[event.sphere].released)


def mute(state: State, now_s: float) -> list[int]:
    """Whose heartbeats are missing, though their connection stands: it may be their machine that is gone."""
    since_s = now_s - state.silence_s
    return [seat.sphere for seat in state.seats.values() if seat.connected and seat.heard_s < since_s]


def expelled(state: State, now_s: float) -> SphereExpelled | None:
    """The next sphere to be thrown out, and why."""
    accusers, terminated = _accusers(state), set(state.wanted.terminated)
    lately_s = now_s - min(SILENCES * state.silence_s, FOUNDING_S)
    for seat in state.seats.values():
        if seat.expelled or seat.released or seat.refused or not seat.connected:
            continue
        named = seat.failed is not None or seat.suspected or seat.sphere in accusers or seat.path in terminated
        if not named and seat.heard_s >= lately_s and seat.stands_s >= lately_s:
            continue  # Nothing below can be said of it: so a look at a thousand that are at work costs little.
        why = _why(state, seat, accusers[seat.sphere], now_s) or (
            _why_not_at_work(state, seat, now_s) if seat.sphere in state.member_ids else ""
        )
        if why:
            return SphereExpelled(sphere=seat.sphere, text=f"{seat.name} {why}", at_s=now_s)
    return None


def _why(state: State, seat: Seat, accusers: int, now_s: float) -> str:
    if seat.path in state.wanted.terminated:
        return f"was terminated by order, {seat.doing} [LW414]"
    if seat.failed is not None:
        if seat.failed.sick:
            return f"can't trust its memory: {seat.failed.text}"
        if state.begun is not None and seat.sphere not in state.line():
            return f"came to join and failed: {seat.failed.text}"
        return ""
    if seat.suspected:
        return "raised a flag that a repetition on others did not confirm [LW304]"
    if accusers and 2 * accusers >= sum(member.sphere != seat.sphere for member in state.members):
        return f"made the tail unsound, say {accusers} of its peers [LW304]"
    limit_s = SILENCES * state.silence_s
    if now_s - seat.heard_s > limit_s:
        return f"was lost {seat.doing}: not heard for {limit_s:g} s, though its connection stands [LW407]"
    return ""


def _why_not_at_work(state: State, seat: Seat, now_s: float) -> str:
    return _why_stuck(state, seat, now_s) or _why_unready(state, seat, now_s)


def _accusers(state: State) -> Counter[int]:
    """Sphere -> how many of its peers say that it made the newest generation's tail unsound."""
    seats = [seat for seat in state.seats.values() if seat.beat is not None and seat.beat.accuses]
    said = [(seat.sphere, seat.beat) for seat in seats if seat.sphere in state.member_ids]
    return Counter(
        beat.accuses
        for sphere, beat in said
        if beat is not None and beat.failed_in == state.generation and beat.accuses != sphere
    )


def _why_stuck(state: State, seat: Seat, now_s: float) -> str:
    """Only who computes can be stuck, and never the only one that is left."""
    if seat.beat is None or seat.beat.phase is not Phase.COMPUTING or not seat.worked or seat.beat.failed_in != (0, 0):
        return ""
    if now_s - seat.stands_s <= _stuck_s(state):
        return ""
    line = state.line()
    alone = not any(
        other is not seat and other.sphere in line and is_here(state, other, now_s) for other in state.seats.values()
    )
    if alone:
        return ""
    return f"is stuck {seat.doing}: no progress for {now_s - seat.stands_s:.1f} s [LW407]"


def _stuck_s(state: State) -> float:
    return max(SILENCES * state.silence_s, STEPS * state.versions.longest_s)


def is_still(state: State, seat: Seat, now_s: float) -> bool:
    """Whether one that computes has not moved for half the time after which it is thrown out as stuck."""
    return seat.worked and now_s - seat.stands_s > _stuck_s(state) / 2


def _why_unready(state: State, seat: Seat, now_s: float) -> str:
    """A Ready that stays out, from one whose main thread is not at work: that would end by itself."""
    if state.generation == state.running or seat.beat is None or seat.beat.phase is Phase.COMPUTING:
        return ""
    if seat.ready is not None and seat.ready.generation == state.generation:
        return ""
    limit_s = SILENCES * state.silence_s if state.begun is not None else FOUNDING_S
    if now_s - max(state.proposed_s, seat.stands_s) <= limit_s:
        return ""
    return f"did not answer the roll call within {limit_s:g} s [LW409]"


def barred(state: State, now_s: float) -> SphereBarred | None:
    """The sphere to be left out because peers can't reach it: the fewest that cover all broken pairs, one at a time.

    Without evidence, generations that break again and again would never end: the youngest is left out for a while.
    """
    broke = [seat.broke_s for seat in state.member_seats() if seat.broke_s is not None]
    if not broke and state.broken < BUILDS:
        return None
    here = {member.sphere for member in state.members if is_here(state, state.seats[member.sphere], now_s)}
    if len(here) < 2:
        return None
    pairs = _broken_pairs(state, here)
    if pairs and broke and now_s - min(broke) >= BROKEN * state.silence_s:
        counted = Counter(sphere for pair in pairs for sphere in pair)
        sphere = max(counted, key=lambda each: (counted[each], each))
        others = ", ".join(sorted(state.seats[next(iter(pair - {sphere}))].path for pair in pairs if sphere in pair))
        return _bar(state, sphere, f"and sphere {others} can't reach each other [LW408]", now_s)
    if state.broken >= BUILDS:
        return _bar(
            state, max(here), "is left out: generations broke again and again, for no known cause [LW408]", now_s
        )
    return None


def _broken_pairs(state: State, here: set[int]) -> set[frozenset[int]]:
    pairs = set()
    for sphere in here:
        beat = state.seats[sphere].beat
        if beat is not None and beat.failed_in == state.generation:
            pairs |= {frozenset((sphere, other)) for other in beat.unreachable if other in here and other != sphere}
    return {pair for pair in pairs if pair in map(frozenset, combinations(here, 2))}


def _bar(state: State, sphere: int, text: str, now_s: float) -> SphereBarred:
    seat = state.seats[sphere]
    least_s, most_s = BAR_S
    until_s = now_s + min(least_s * state.silence_s * 2**seat.bars, most_s)
    return SphereBarred(sphere=sphere, text=f"{seat.name} {text}", until_s=until_s, at_s=now_s)
