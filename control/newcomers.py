"""Who comes from another host is dialed, and dials, before it can cost anybody a generation: pure decisions.

Laws
  1. Who shares a network stack with somebody who is in reaches the others as that one does, if it is at the same
     address: one proof for a host, and none on the first.
  2. A newcomer's neighbours in the tree dial it, one before it and one after it, and it dials them: of those who train,
     or of all before the first generation. So the work is that of the newcomers, whatever the size of the tree.
  3. Who was not reached, or did not reach, is refused, and says so to its user. Never one of those who train: they have
     proved what they can.
  4. Nobody is waited for in vain: who was asked and is gone is replaced, whose word does not come counts as content.
  5. A place stays proven, whoever dies there: what breaks later is a matter of losses.py, which lets it come back.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import TypeAlias

from msgspec.structs import replace

from .dials import Asked, Dial, NewcomersReached, Place, Reach, SphereDialed
from .events import SphereRefused
from .protocol import Member
from .state import Seat, State

DIAL_S, DIAL_SILENCES = 4.0, 1.5
"""For one dial, at least: a first packet that is lost is sent again after 1 s and after 3 s; and whoever is stopped for
all of it is lost before."""
MUTE = 3
"""Times that long is the word of who dialed waited for."""
DIALS_MOST = 32
"""Under way at one sphere."""

Pair: TypeAlias = tuple[Place, Place]


def dial_s(silence_s: float) -> float:
    """What one dial may take, at the sphere that dials."""
    return max(DIAL_S, DIAL_SILENCES * silence_s)


def dials(state: State, now_s: float) -> list[tuple[int, Dial]]:
    """Whom each sphere is asked to dial now."""
    if not _is_one_here(state):
        return []
    places, asked = _places(state), state.reach.asked
    patience_s = MUTE * dial_s(state.silence_s)
    under_way = Counter(each.sphere for each in asked.values() if each.found is None and now_s - each.at_s < patience_s)
    peers: dict[int, list[Member]] = {}
    for pair in [pair for pairs in _due(state, places).values() for pair in pairs if pair not in asked]:
        one, other = (places[place] for place in pair)
        if under_way[one.sphere] < DIALS_MOST:
            under_way[one.sphere] += 1
            peers.setdefault(one.sphere, []).append(other.member)
    return [(sphere, Dial(peers=some, within_s=dial_s(state.silence_s))) for sphere, some in peers.items()]


def judged(state: State, now_s: float) -> NewcomersReached | SphereRefused | None:
    """The newcomers that are proven by now, or else the next sphere to be refused."""
    if not _is_one_here(state):
        return None
    places = _places(state)
    proven: list[int] = []
    broken: list[Pair] = []
    for place, pairs in _due(state, places).items():
        found = [_found(state, pair, now_s) for pair in pairs]
        if all(found):
            proven.append(places[place].sphere)
        elif None not in found:
            broken += [pair for pair, well in zip(pairs, found, strict=True) if not well]
    if proven or not broken:
        return NewcomersReached(spheres=proven, at_s=now_s) if proven else None
    seat = places[_to_blame(state, places, broken)]
    text = _why(seat, places, broken, dial_s(state.silence_s))
    return SphereRefused(sphere=seat.sphere, text=text, at_s=now_s, unreached=True)


def _is_one_here(state: State) -> bool:
    """Whether there is anything to look for: the rest takes a look at every sphere. Not while control has just started
    anew, for who could dial is about to come back."""
    if state.adopting_s is not None:
        return False
    return any(sphere in state.seats and _is_there(state.seats[sphere]) for sphere in state.reach.newcomers)


def _places(state: State) -> dict[Place, Seat]:
    """Each place in tree order, with the sphere that speaks for it: one that trains, if any does."""
    line, found = state.line(), dict[Place, Seat]()
    for path in state.paths:
        seat = state.seat_at(path)
        if seat is not None and seat.place is not None and _is_there(seat):
            if seat.place not in found or (seat.sphere in line and found[seat.place].sphere not in line):
                found[seat.place] = seat
    return found


def _is_there(seat: Seat) -> bool:
    return seat.connected and not (seat.refused or seat.expelled or seat.released or seat.failed)


def _due(state: State, places: dict[Place, Seat]) -> dict[Place, list[Pair]]:
    """Newcomer -> what has to be dialed; nothing where there is nobody elsewhere."""
    line, order = state.line(), list(places)
    known = [at for at, place in enumerate(order) if places[place].sphere in line] or [*range(len(order))]
    due: dict[Place, list[Pair]] = {}
    for at, place in enumerate(order):
        if places[place].sphere in state.reach.newcomers:
            after, count = bisect_left(known, at), len(known)
            ways = (range(after, after + count), range(after - 1, after - 1 - count, -1))
            sides = (_first_elsewhere(place, (order[known[each % count]] for each in way)) for way in ways)
            peers = dict.fromkeys(peer for peer in sides if peer is not None)
            due[place] = [pair for peer in peers for pair in ((peer, place), (place, peer))]
    return due


def _first_elsewhere(place: Place, some: Iterable[Place]) -> Place | None:
    return next((each for each in some if each[0] != place[0]), None)


def _found(state: State, pair: Pair, now_s: float) -> bool | None:
    """Whether the dial went well; None: it may still be told. That it did not counts once the peer was heard after it:
    else it may have been dead, or stopped."""
    asked, took_s = state.reach.asked.get(pair), dial_s(state.silence_s)
    if asked is None:
        return None
    peer = state.seats.get(asked.peer)
    if asked.found is False and peer is not None and peer.heard_s >= asked.at_s + took_s:
        return False
    return True if asked.found or now_s - asked.at_s >= MUTE * took_s else None


def _to_blame(state: State, places: dict[Place, Seat], broken: list[Pair]) -> Place:
    """Before all whom nobody reached who tried, then the one with most broken dials, then the youngest."""
    line = state.line()
    reached = {to for (_, to), asked in state.reach.asked.items() if asked.found}
    missed = {to for _, to in broken} - reached
    counted = Counter(place for pair in broken for place in pair if places[place].sphere not in line)
    return max(counted, key=lambda place: (place in missed, counted[place], places[place].sphere))


def _why(seat: Seat, places: dict[Place, Seat], broken: list[Pair], took_s: float) -> str:
    missed_by = [places[each] for each in dict.fromkeys(one for one, other in broken if other == seat.place)]
    missed = [places[each] for each in dict.fromkeys(other for one, other in broken if one == seat.place)]
    said = []
    if missed_by:
        peers = " and ".join(f"sphere {each.path} ({each.hello.address})" for each in missed_by)
        said.append(f"at {seat.hello.address} port {seat.hello.port} it was not reached by {peers}")
    if missed:
        peers = " and ".join(f"sphere {each.path} at {each.hello.address} port {each.hello.port}" for each in missed)
        said.append(f"it did not reach {peers}")
    return (
        f"{seat.name}: {', '.join(said)} within {took_s:g} s; name the network that leads there with --interface, let "
        "TCP ports from 1024 up in, or ask `lightwatch doctor` on both [LW417]"
    )


# -------------------------------------------------------------------- what becomes of what is known


def came(state: State, seat: Seat) -> Reach:
    """A sphere has come. The first place of all is what the others are measured by."""
    reach, place = state.reach, seat.place
    newcomers = reach.newcomers - {state.sphere_at.get(seat.path, 0)}
    if place is None or place in reach.places:
        return replace(reach, newcomers=newcomers)
    if seat.sphere in state.line() or not (reach.places or reach.newcomers):
        return replace(reach, newcomers=newcomers, places=reach.places | {place})
    return replace(reach, newcomers=newcomers | {seat.sphere})


def asked(state: State, sphere: int, dial: Dial, at_s: float) -> Reach:
    """A sphere was asked to dial."""
    one = state.seats[sphere].place
    pairs = {(one, state.seats[peer.sphere].place): Asked(sphere, peer.sphere, at_s) for peer in dial.peers}
    known = {(one, other): each for (one, other), each in pairs.items() if one is not None and other is not None}
    return replace(state.reach, asked={**state.reach.asked, **known})


def heard(state: State, event: SphereDialed) -> State:
    """A sphere has dialed; what it was not asked counts for nothing."""
    one, gone = state.seats[event.sphere].place, set(event.dialed.gone)
    asked = dict(state.reach.asked)
    for peer in event.dialed.tried:
        other = state.seats[peer].place if peer in state.seats else None
        each = asked.get((one, other)) if one is not None and other is not None else None
        if one is not None and other is not None and each is not None:
            if (each.sphere, each.peer, each.found) == (event.sphere, peer, None):
                asked[one, other] = replace(each, found=peer not in gone)
    return replace(state, reach=replace(state.reach, asked=asked))


def reached(state: State, event: NewcomersReached) -> State:
    """Their places are proven, and all who are there."""
    reach = state.reach
    proven = {place for sphere in event.spheres if (place := state.seats[sphere].place) is not None}
    places = reach.places | proven
    newcomers = frozenset(
        each for each in reach.newcomers if each in state.seats and state.seats[each].place not in proven
    )
    over = state.begun is not None and not newcomers
    come = [state.seats[each] for each in reach.newcomers - newcomers if each in state.seats]
    seats = {seat.sphere: replace(seat, waits_s=event.at_s) for seat in come}  # They are collected from now on.
    reach = Reach(places=places, newcomers=newcomers, asked={} if over else reach.asked)
    return replace(state, seats=state.seats.having(seats), reach=reach)


def left(state: State, sphere: int) -> State:
    """A sphere has lost its connection, or was refused: others there go on for their place; else nothing is known of
    it any more that was dialed."""
    reach, seat = state.reach, state.seats[sphere]
    place = seat.place
    if place is None or not (reach.asked or seat.refused):
        return state
    others = [each for each in state.seats.values() if each.sphere != sphere and each.place == place]
    stays = any(map(_is_there, others))
    kept = {
        pair: each
        for pair, each in reach.asked.items()
        if (stays or place not in pair) and (each.found is not None or sphere not in (each.sphere, each.peer))
    }
    reach = replace(reach, asked=kept)
    if seat.refused:
        reach = replace(reach, newcomers=reach.newcomers - {sphere})
        line = state.line()
        if not any(each.sphere in line for each in others):
            reach = replace(reach, places=reach.places - {place})
    return replace(state, reach=reach)
