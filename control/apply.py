"""The only writer of the state: one fact in, the next state out. It decides nothing and refuses nothing that `admit`
let through; a fact that contradicts the state is our own fault and raises IllegalMove."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from .errors import IllegalMove
from .events import (
    Event,
    EverybodyLeft,
    GenerationBegun,
    GenerationProposed,
    OrderGiven,
    OrderTook,
    RunEnded,
    Sent,
    SphereBeat,
    SphereCame,
    SphereClosed,
    SphereFailed,
    SphereLost,
    SphereProved,
    SphereReady,
    SphereRefused,
    SphereReported,
    SphereReturned,
)
from .protocol import Beat, End, Go, Orders, Row, Tick, View
from .state import ControlStatus, Order, Seat, State, Told, moved
from .totals import booked, closed, held_up, wait_s
from .versions import founded, reported

REQUESTS_KEPT = 1024


def apply(state: State, event: Event) -> State:
    """The state after `event`."""
    match event:
        case SphereCame():
            if event.sphere != state.next_sphere:
                raise IllegalMove(f"sphere {event.sphere} came; the next id is {state.next_sphere}")
            seat = Seat(sphere=event.sphere, hello=event.hello, heard_s=event.at_s)
            sphere_at = {**state.sphere_at, seat.path: event.sphere}
            return replace(_seated(state, seat), sphere_at=sphere_at, next_sphere=event.sphere + 1)
        case SphereReturned():
            seat = state.seats[event.sphere]
            told = Told(tick=seat.told.tick)  # Ticks are counted on: a sphere drops a number it has heard.
            return _seated(state, replace(seat, connected=True, heard_s=event.at_s, told=told))
        case SphereLost():
            seat = state.seats[event.sphere]
            return _seated(state, replace(seat, connected=False, lost_s=event.at_s)) if seat.connected else state
        case SphereProved():
            return _seated(state, replace(_heard(state, event.sphere, event.at_s), proof=event.proof))
        case SphereRefused():
            return _seated(state, replace(_heard(state, event.sphere, event.at_s), refused=event.text))
        case SphereBeat():
            return _seated(state, _beaten(state, event))
        case SphereReady():
            return _seated(state, replace(_heard(state, event.sphere, event.at_s), ready=event.ready))
        case SphereReported():
            return _with_row(state, event)
        case SphereClosed():
            seat = _heard(state, event.sphere, event.at_s)
            return _seated(state, replace(seat, closed=event.closed, account=closed(seat.account, event.closed)))
        case SphereFailed():
            return _seated(state, replace(_heard(state, event.sphere, event.at_s), failed=event.failed))
        case Sent():
            return _seated(state, replace(state.seats[event.sphere], told=_told(state, event)))
        case GenerationProposed():
            return _proposed(state, event)
        case GenerationBegun():
            return _begun(state, event)
        case OrderGiven():
            return _ordered(state, event)
        case OrderTook():
            return _took(state, event)
        case RunEnded():
            return replace(state, ended=event, status=moved(state.status, ControlStatus.STOPPING))
        case EverybodyLeft():
            return replace(state, status=moved(state.status, ControlStatus.STOPPED))
        case _:
            assert_never(event)


def _seated(state: State, seat: Seat) -> State:
    return replace(state, seats={**state.seats, seat.sphere: seat})


def _heard(state: State, sphere: int, at_s: float) -> Seat:
    return replace(state.seats[sphere], heard_s=at_s)


def _beaten(state: State, event: SphereBeat) -> Seat:
    seat, beat = state.seats[event.sphere], event.beat
    broke = state.begun is not None and beat.failed_in == state.running
    broke_s = (seat.broke_s if seat.broke_s is not None else event.at_s) if broke else None
    same = seat.beat is not None and _stand(seat.beat) == _stand(beat)
    stands_s = seat.stands_s if same else event.at_s
    return replace(seat, heard_s=event.at_s, beat=beat, stands_s=stands_s, broke_s=broke_s)


def _stand(beat: Beat) -> tuple[object, ...]:
    return beat.generation, beat.phase, beat.position, beat.closing


def _with_row(state: State, event: SphereReported) -> State:
    row, seat = event.row, _heard(state, event.sphere, event.at_s)
    account = booked(seat.account, row)
    seats = {**state.seats, seat.sphere: replace(seat, version=max(seat.version, row.version), account=account)}
    last = state.seat_at(row.slowest) if row.slowest is not None and account is not seat.account else None
    if last is not None and last.sphere != seat.sphere:
        seats[last.sphere] = replace(last, account=held_up(last.account, wait_s(row)))
    return replace(state, seats=seats, versions=reported(state.versions, event.sphere, row, state.exact))


def _told(state: State, event: Sent) -> Told:
    told = state.seats[event.sphere].told
    match event.message:
        case View(generation=generation, orders=orders):
            number = max(told.order, orders[-1].number if orders else 0)
            return replace(told, view=generation, view_s=event.at_s, order=number, order_s=event.at_s)
        case Go(generation=generation):
            return replace(told, go=generation, go_s=event.at_s)
        case Orders(orders=orders):
            return replace(told, order=max(told.order, orders[-1].number), order_s=event.at_s)
        case Tick(number=number):
            return replace(told, tick=number, tick_s=event.at_s)
        case End():
            return replace(told, over=True)
        case _:
            return told


def _proposed(state: State, event: GenerationProposed) -> State:
    if event.generation <= state.generation:
        raise IllegalMove(f"generation {event.generation} proposed after {state.generation}; they only rise")
    seats = {sphere: replace(seat, ready=None, closed=None) for sphere, seat in state.seats.items()}
    return replace(
        state,
        seats=seats,
        generation=event.generation,
        members=event.members,
        proposed_s=event.at_s,
        orders_in_view=len(state.orders),
    )


def _begun(state: State, event: GenerationBegun) -> State:
    if event.generation != state.generation:
        raise IllegalMove(f"generation {event.generation} begun; the newest proposed is {state.generation}")
    versions = state.versions
    if event.founding:
        row = Row(generation=event.generation, version=event.position.version, digest=event.digest)
        versions = founded(versions, row, event.donor)
    status = state.status
    if status is ControlStatus.INITIALIZING:
        status = moved(status, ControlStatus.RUNNING)
    return replace(state, begun=event, versions=versions, status=status)


def _ordered(state: State, event: OrderGiven) -> State:
    if event.wanted.number != len(state.orders) + 1:
        raise IllegalMove(f"order {event.wanted.number} given after {len(state.orders)}; numbers have no gap")
    requests = dict(list(state.requests.items())[-REQUESTS_KEPT:])
    if event.request:
        requests[event.request] = event.wanted.number
    status = state.status
    if event.wanted.stopped:
        status = moved(status, ControlStatus.STOPPING)
    return replace(state, orders=(*state.orders, Order(event.wanted, event.what)), requests=requests, status=status)


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
