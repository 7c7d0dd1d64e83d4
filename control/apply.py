"""The only writer of the state: one fact in, the next state out. It decides nothing and refuses nothing that `admit`
let through; a fact that contradicts the state is our own fault and raises IllegalMove."""

from __future__ import annotations

from typing import assert_never

from msgspec.structs import replace

from . import newcomers
from .errors import IllegalMove
from .events import (
    Adopted,
    CheckpointSaved,
    DealKept,
    Event,
    EverybodyLeft,
    GenerationBegun,
    GenerationProposed,
    NewcomersReached,
    OrderGiven,
    OrderTook,
    Remembered,
    RestoreRefused,
    Resumed,
    RunEnded,
    SaveGivenUp,
    Sent,
    SphereBarred,
    SphereBeat,
    SphereCame,
    SphereClosed,
    SphereDialed,
    SphereEvent,
    SphereExpelled,
    SphereFailed,
    SphereLost,
    SphereProved,
    SphereReady,
    SphereRefused,
    SphereReleased,
    SphereReported,
    SphereReturned,
    SphereSaving,
    VersionSettled,
    founding_row,
)
from .membership import follows
from .protocol import (
    NO_GENERATION,
    Beat,
    Hello,
)
from .saves import Saves, given_up, heard, saved
from .seats import Seats
from .state import UNHEARD_OF, ControlStatus, Order, Seat, State, Told, moved
from .told import all_sent
from .totals import booked, closed, held_up, wait_s
from .tree import SphereTree
from .versions import Versions, founded, obeying, reported, settle

REQUESTS_KEPT = 1024


def apply(state: State, event: Event) -> State:
    """The state after `event`."""
    match event:
        case SphereBeat() | SphereReported():  # all but a few are one of these
            return _of_a_sphere(state, event)
        case Sent():
            return all_sent(state, [event])
        case NewcomersReached():
            return newcomers.reached(state, event)
        case GenerationProposed():
            return _proposed(state, event)
        case GenerationBegun():
            return _begun(state, event)
        case OrderGiven():
            return _ordered(state, event)
        case OrderTook():
            return _took(state, event)
        case CheckpointSaved():
            return replace(state, saves=saved(state.saves, event))
        case SaveGivenUp():
            return replace(state, saves=given_up(state.saves, event))
        case RestoreRefused():
            return replace(state, restoring=0, refusals={**state.refusals, event.number: event})
        case Resumed():
            return _resumed(state, event)
        case VersionSettled():
            return replace(state, versions=settle(state.versions, event.sphere, event.row))
        case DealKept():
            return replace(state, deal_kept=event.version)
        case Adopted():
            return replace(state, adopting_s=None)
        case Remembered():
            return _remembered(state, event)
        case RunEnded():
            return replace(state, ended=event, status=moved(state.status, ControlStatus.STOPPING))
        case EverybodyLeft():
            return replace(state, status=moved(state.status, ControlStatus.STOPPED))
        case _:
            return _of_a_sphere(state, event)


def _of_a_sphere(state: State, event: SphereEvent) -> State:
    match event:
        case SphereBeat():
            return _seated(state, _beaten(state, event))
        case SphereReported():
            return _with_row(state, event)
        case SphereCame():
            return _came(state, event)
        case SphereReturned():
            seat = state.seats[event.sphere]
            waits_s = event.at_s if not seat.connected else seat.waits_s
            # What it did meanwhile nobody heard: it counts as stuck no sooner than one that came now.
            back = replace(seat, connected=True, heard_s=event.at_s, stands_s=event.at_s, waits_s=waits_s, told=Told())
            return _seated(_looking_again(state, event), back)
        case SphereLost():
            seat = state.seats[event.sphere]
            gone = _seated(state, replace(seat, connected=False, lost_s=event.at_s)) if seat.connected else state
            return newcomers.left(gone, event.sphere)
        case SphereProved():
            seat = replace(_heard(state, event.sphere, event.at_s), proof=event.proof, waits_s=event.at_s)
            return replace(_seated(state, seat), proof=state.proof or event.proof)
        case SphereRefused():
            seat = replace(_heard(state, event.sphere, event.at_s), refused=event.text, unreached=event.unreached)
            return newcomers.left(_seated(state, seat), event.sphere)
        case SphereDialed():
            return newcomers.heard(state, event)
        case SphereExpelled():
            return _seated(state, replace(state.seats[event.sphere], expelled=event.text))
        case SphereReleased():
            return _seated(state, replace(state.seats[event.sphere], released=True))
        case SphereBarred():
            seat = state.seats[event.sphere]
            barred = replace(seat, barred_s=event.until_s, bars=seat.bars + 1, broke_s=None)
            return replace(_seated(state, barred), broken=0)
        case SphereReady():
            return _seated(state, replace(_heard(state, event.sphere, event.at_s), ready=event.ready))
        case SphereSaving():
            seat = replace(_heard(state, event.sphere, event.at_s), saving=event.saving)
            return replace(_seated(state, seat), saves=heard(state.saves, event.saving, event.at_s))
        case SphereClosed():
            seat = _heard(state, event.sphere, event.at_s)
            return _seated(state, replace(seat, closed=event.closed, account=closed(seat.account, event.closed)))
        case SphereFailed():
            return _seated(state, replace(_heard(state, event.sphere, event.at_s), failed=event.failed))
        case _:
            assert_never(event)


def _seated(state: State, seat: Seat) -> State:
    return replace(state, seats=state.seats.having({seat.sphere: seat}))


def _heard(state: State, sphere: int, at_s: float) -> Seat:
    return replace(state.seats[sphere], heard_s=at_s)


def _looking_again(state: State, event: SphereReturned) -> State:
    """The first to be back after the whole line was away: it was control that was stopped, or cut off, and the others
    are about to come back too. Until they have had the time, nobody is lost."""
    line = state.line()
    if event.sphere not in line or any(state.seats[sphere].connected for sphere in line if sphere in state.seats):
        return state
    return replace(state, adopting_s=max(state.adopting_s or 0.0, event.at_s + state.silence_s))


def _came(state: State, event: SphereCame) -> State:
    hello = event.hello
    known = state.seats.get(event.sphere)
    if (known is not None and not known.unseen) or (event.sphere != state.next_sphere and not state.remembers):
        raise IllegalMove(f"sphere {event.sphere} came; the next id is {state.next_sphere}")
    seat = Seat(sphere=event.sphere, hello=hello, heard_s=event.at_s, key=event.key)
    seats, former = state.seats, state.seat_at(hello.path)
    if former is not None:
        seat = replace(seat, account=former.account)  # What was done at this path goes on being counted.
        seats = _without_those_before(state, event)
    paths = state.paths if hello.path in state.paths else SphereTree.of((*state.paths, hello.path)).paths
    return replace(
        state,
        seats=seats.having({event.sphere: seat}),
        sphere_at={**state.sphere_at, hello.path: event.sphere},
        next_sphere=max(state.next_sphere, event.sphere + 1),
        paths=paths,
        reach=newcomers.came(state, seat),
    )


def _without_those_before(state: State, event: SphereCame) -> Seats[Seat]:
    """Whoever had this path is away, or known dead; who has no part in anything any more is forgotten."""
    hello, kept = event.hello, dict(state.seats)
    needed = state.line() | state.member_ids
    for old in state.seats.values():
        if old.path == hello.path:
            lost_s = old.lost_s if not old.connected else event.at_s
            dead = old.dead or follows(hello, old, event.key)
            kept[old.sphere] = replace(old, connected=False, lost_s=lost_s, dead=dead, waits_s=0.0)
            if old.sphere not in needed:
                del kept[old.sphere]
    return Seats(kept)


def _remembered(state: State, event: Remembered) -> State:
    """What a sphere knows becomes what control knows, as far as it is newer."""
    memory = event.memory
    orders = state.orders
    for wanted in memory.orders[len(orders) :]:
        orders = (*orders, Order(wanted, "remembered"))
    spheres = [member.sphere for member in memory.members]
    next_sphere = max([state.next_sphere, *(sphere + 1 + UNHEARD_OF for sphere in spheres)])
    if memory.generation <= state.running:
        return replace(state, incarnation=event.incarnation, orders=orders, next_sphere=next_sphere)
    begun = GenerationBegun(
        generation=memory.generation,
        members=tuple(memory.members),
        position=memory.position,
        deal={sphere: [] for sphere in spheres},
        how={},  # What its Gos said nobody remembers: who has not heard one breaks off with the others, and is asked.
    )
    status = state.status
    if status is ControlStatus.INITIALIZING:
        status = moved(status, ControlStatus.RUNNING)
    paths = SphereTree.of(tuple(dict.fromkeys((*state.paths, *(member.path for member in memory.members))))).paths
    seats = dict(state.seats)
    for member in memory.members:
        hello = Hello(
            run_id=state.run_id, path=member.path, pid=0, host="?", sphere=member.sphere, larder_key=member.key
        )
        away = Seat(sphere=member.sphere, hello=hello, heard_s=event.at_s, connected=False, lost_s=event.at_s)
        seats.setdefault(member.sphere, away)
    return replace(
        state,
        seats=Seats(seats),
        sphere_at={**{member.path: member.sphere for member in memory.members}, **state.sphere_at},
        incarnation=event.incarnation,
        lineage=memory.position.lineage,
        orders=orders,
        orders_in_view=len(orders),
        generation=memory.generation,
        members=tuple(memory.members),
        member_ids=frozenset(spheres),
        begun=begun,
        status=status,
        paths=paths,
        next_sphere=next_sphere,
    )


def _beaten(state: State, event: SphereBeat) -> Seat:
    seat, beat = state.seats[event.sphere], event.beat
    broke = beat.failed_in == state.generation and beat.failed_in != NO_GENERATION
    broke_s = (seat.broke_s if seat.broke_s is not None else event.at_s) if broke else None
    same = seat.beat is not None and _stand(seat.beat) == _stand(beat)
    stands_s = seat.stands_s if same else event.at_s
    found = seat.beat is not None and bool(seat.beat.unreachable) and not beat.unreachable
    waits_s = event.at_s if found else seat.waits_s  # left out, and back: those who come with it are collected
    worked = seat.worked or beat.units_done > 0 or beat.position.version > 0
    stood = {"stands_s": stands_s, "broke_s": broke_s, "worked": worked, "waits_s": waits_s}
    return replace(seat, heard_s=event.at_s, beat=beat, **stood)


def _stand(beat: Beat) -> tuple[object, ...]:
    return beat.generation, beat.phase, beat.position, beat.closing, beat.units_done


def _with_row(state: State, event: SphereReported) -> State:
    row, seat = event.row, state.seats[event.sphere]
    account = booked(seat.account, row)
    version = max(seat.version, row.version)
    seats = {seat.sphere: replace(seat, heard_s=event.at_s, version=version, account=account)}
    last = state.seat_at(row.slowest) if row.slowest is not None and account is not seat.account else None
    if last is not None and last.sphere != seat.sphere:
        seats[last.sphere] = replace(last, account=held_up(last.account, wait_s(row)))
    for sphere in row.suspects:
        if sphere in state.seats:
            seats[sphere] = replace(seats.get(sphere, state.seats[sphere]), suspected=True)
    versions = reported(state.versions, event.sphere, row, state.exact, event.known)
    made = versions.newest is not state.versions.newest
    if made and event.row.generation == state.running:
        line = state.line()
        for barred in [each for each in state.seats.values() if each.bars and each.sphere in line]:
            seats[barred.sphere] = replace(seats.get(barred.sphere, barred), bars=0)  # It is one of those who made it.
    broken = 0 if made else state.broken
    return replace(state, seats=state.seats.having(seats), versions=versions, broken=broken)


def _proposed(state: State, event: GenerationProposed) -> State:
    if event.generation <= state.generation:
        raise IllegalMove(f"generation {event.generation} proposed after {state.generation}; they only rise")
    seats = {sphere: replace(seat, ready=None, closed=None, broke_s=None) for sphere, seat in state.seats.items()}
    member_ids = frozenset(member.sphere for member in event.members)
    same = member_ids == state.member_ids
    return replace(
        state,
        seats=Seats(seats),
        broken=(state.broken + (state.generation == state.running)) if same else 0,
        generation=event.generation,
        members=event.members,
        member_ids=member_ids,
        proposed_s=event.at_s,
        called_for=event.restoring,
        orders_in_view=len(state.orders),
    )


def _begun(state: State, event: GenerationBegun) -> State:
    if event.generation != state.generation:
        raise IllegalMove(f"generation {event.generation} begun; the newest proposed is {state.generation}")
    if event.position.lineage > state.lineage:
        state = _of_a_new_lineage(state, event)
    versions, digest = obeying(state.versions, event.position.version, event.in_force), state.founded
    if event.founding:
        row = founding_row(event)
        versions = founded(versions, row, event.members[0].sphere)
        digest = digest if event.position.version else event.digest
    status = state.status
    if status is ControlStatus.INITIALIZING:
        status = moved(status, ControlStatus.RUNNING)
    begun = replace(state, begun=event, versions=versions, status=status, founded=digest)
    seats = {sphere: seat for sphere, seat in begun.seats.items() if _counts(begun, seat)}
    return replace(begun, seats=Seats(seats))


def _of_a_new_lineage(state: State, event: GenerationBegun) -> State:
    """The run goes on from an older version: what was made above it is history, what was ordered stays ordered."""
    version, progress = event.position.version, state.versions.progress
    versions = founded(Versions(progress=progress, held=version - 1), founding_row(event), event.members[0].sphere)
    orders = tuple(
        order if order.version is None else replace(order, version=min(order.version, version))
        for order in state.orders
    )
    seats = {sphere: replace(seat, version=min(seat.version, version)) for sphere, seat in state.seats.items()}
    return replace(
        state,
        versions=versions,
        orders=orders,
        seats=Seats(seats),
        restoring=0,
        deal_kept=-1,
        lineage=event.position.lineage,
        origin=version,
    )


def _resumed(state: State, event: Resumed) -> State:
    """Nothing but what still counts is left of the state."""
    return State(
        run_id=state.run_id,
        paths=event.paths,
        tree=event.tree,
        incarnation=state.incarnation,
        silence_s=state.silence_s,
        began_s=event.at_s,
        next_sphere=event.next_sphere,
        founded=event.founded,
        remembers=state.remembers,
        generation=event.generation,
        orders=tuple(Order(wanted, what, version) for wanted, what, version in event.orders),
        versions=state.versions,
        saves=Saves(last=event.last, settled=event.settled),
        lineage=event.lineage,
        origin=event.origin,
        resumed=True,
        anew=event.anew,
        former=event.fingerprint,
    )


def _counts(state: State, seat: Seat) -> bool:
    """Whether anything may still depend on it: the dead of former generations are forgotten."""
    return seat.sphere in state.line() or state.sphere_at.get(seat.path) == seat.sphere


def _ordered(state: State, event: OrderGiven) -> State:
    if event.wanted.number != len(state.orders) + 1:
        raise IllegalMove(f"order {event.wanted.number} given after {len(state.orders)}; numbers have no gap")
    requests = dict(list(state.requests.items())[-REQUESTS_KEPT:])
    if event.request:
        requests[event.request] = event.wanted.number
    status = state.status
    if event.wanted.stopped:
        status = moved(status, ControlStatus.STOPPING)
    orders = (*state.orders, Order(event.wanted, event.what, text=event.text))
    restoring = event.wanted.number if event.what == "restore" else state.restoring
    return replace(state, orders=orders, requests=requests, status=status, restoring=restoring)


def _took(state: State, event: OrderTook) -> State:
    orders = tuple(
        replace(order, version=event.version) if order.version is None and place < event.number else order
        for place, order in enumerate(state.orders)
    )
    status = state.status
    if status in (ControlStatus.RUNNING, ControlStatus.PAUSED):
        paused = orders[event.number - 1].wanted.paused
        status = moved(status, ControlStatus.PAUSED if paused else ControlStatus.RUNNING)
    return replace(state, orders=orders, status=status)
