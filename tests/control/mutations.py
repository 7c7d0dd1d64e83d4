"""Rules of control taken away one at a time, to see that the world notices. Each returns how to put it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

import control.apply
import control.decide
import control.generations
import control.ledger
import control.recall
import control.rollcall
import control.server
from control.events import DURABLE
from control.protocol import How
from tests.control.props import Shelf, Undo, put


class Nothing:
    """A ledger that keeps no promise."""

    def commit(self) -> None:
        pass


def begun_otherwise(change: Callable[[Any, Any, Any], Any]) -> Undo:
    """`carry_on` as it is, and then changed."""
    real = control.rollcall.carry_on

    def carry_on(state: Any, readys: Any) -> Any:
        begun = real(state, readys)
        return change(state, readys, begun) if begun is not None else None

    return put(control.rollcall, "carry_on", carry_on)


def _whole_deal(state: Any, readys: Any, begun: Any) -> Any:
    spheres = list(readys)
    dealt = {sphere: list(range(place, 4, len(spheres))) for place, sphere in enumerate(spheres)}
    return replace(begun, deal=dealt)


def stale_deal() -> Undo:
    """Dealt without the roll call, as if nobody had done anything."""
    return begun_otherwise(_whole_deal)


def overlapping_keep() -> Undo:
    """Everybody keeps its sums, whatever is in them."""

    def disjoint(done: dict[int, list[int]]) -> tuple[list[int], set[int]]:
        return list(done), {index for indices in done.values() for index in indices}

    return put(control.rollcall, "_disjoint", disjoint)


def attempt_ignored() -> Undo:
    """Sums of another attempt are kept."""
    real = control.rollcall.carry_on

    def carry_on(state: Any, readys: Any) -> Any:
        begun = real(state, readys)
        if begun is None:
            return None
        step = (begun.position.version, begun.position.closing)
        there = [s for s, r in readys.items() if r.holds_state and (r.position.version, r.position.closing) == step]
        keep, kept = control.rollcall._disjoint({sphere: readys[sphere].done for sphere in there})
        missing = [unit for unit in range(4) if unit not in kept]
        how = {s: How.HERE if s in there else how for s, how in begun.how.items()}
        deal = {s: missing if s == there[0] else [] for s in readys}
        return replace(begun, keep=keep, how=how, deal=deal)

    return put(control.rollcall, "carry_on", carry_on)


def record_ignored() -> Undo:
    """Who is one transition behind stays there."""

    def change(state: Any, readys: Any, begun: Any) -> Any:
        return replace(begun, how={s: How.HERE if how is How.RECORD else how for s, how in begun.how.items()})

    return begun_otherwise(change)


def record_without_sums() -> Undo:
    """The record is sent to whoever is one behind."""
    real = control.rollcall.carry_on

    def carry_on(state: Any, readys: Any) -> Any:
        return real(state, {s: msgspec.structs.replace(ready, has_sums=True) for s, ready in readys.items()})

    return put(control.rollcall, "carry_on", carry_on)


def no_line() -> Undo:
    """Whoever is here carries on."""
    return put(control.generations, "waits_for", lambda state, now_s, readys=None: [])


def incarnation_not_raised() -> Undo:
    """Each control counts its generations from 1, as the first."""

    def opened(shelf: Any) -> Any:
        shelf.incarnation = 1
        shelf._open.clear()
        shelf._events = [
            event for event in shelf._events if type(event).__name__ not in ("GenerationProposed", "GenerationBegun")
        ]
        return shelf

    return put(Shelf, "opened", opened)


def no_orders_table() -> Undo:
    """A replay is not told from when an order was in force."""
    return put(control.rollcall, "_in_force_at", lambda state, position: {})


def nothing_known() -> Undo:
    """A replay obeys its own tails."""
    return put(control.rollcall, "_known", lambda state, position: -1)


def least_in_force() -> Undo:
    """Whoever lags behind says which order holds."""

    def change(state: Any, readys: Any, begun: Any) -> Any:
        return replace(begun, in_force=0)

    return begun_otherwise(change)


def go_before_all_are_ready() -> Undo:
    """Those who have answered begin."""

    def readys_of(state: Any) -> Any:
        readys = {seat.sphere: seat.ready for seat in state.member_seats() if seat.ready is not None}
        readys = {sphere: ready for sphere, ready in readys.items() if ready.generation == state.generation}
        return readys or None

    return put(control.generations, "readys_of", readys_of)


def send_before_commit() -> Undo:
    """What is sent is not in the ledger yet."""

    def flush(server: Any) -> None:
        server.ledger, ledger = Nothing(), server.ledger
        try:
            real(server)
        finally:
            server.ledger = ledger
        ledger.commit()

    real = control.server.Server._flush
    return put(control.server.Server, "_flush", flush)


def begun_not_durable() -> Undo:
    """The running generation is not in the ledger."""
    durable = tuple(kind for kind in DURABLE if kind.__name__ != "GenerationBegun")
    return put(Shelf, "durable", durable)


def failures_as_events() -> Undo:
    """A failure counts when it is first said, and is forgotten with the next View or control."""
    real = control.apply._beaten

    def beaten(state: Any, event: Any) -> Any:
        old = state.seats[event.sphere].beat
        if old is None or old.failed_in == event.beat.failed_in:
            return replace(real(state, event), broke_s=None)
        return real(state, event)

    return put(control.apply, "_beaten", beaten)


def lowest_position() -> Undo:
    """The generation begins where the last of the line stands."""

    def change(state: Any, readys: Any, begun: Any) -> Any:
        holders = [ready for ready in readys.values() if ready.holds_state]
        position = min(ready.position for ready in holders)
        how = {s: How.HERE if r.holds_state and r.position == position else How.FETCH for s, r in readys.items()}
        return replace(begun, position=position, how=how)

    return begun_otherwise(change)


def order_from_the_next_row() -> Undo:
    """An order is said to be in force a version too late."""

    def took(state: Any, number: int, version: int) -> Any:
        return control.events.OrderTook(number=min(number, len(state.orders)), version=version + 1)

    return put(control.decide, "_took", took)


def joiners_shut_out() -> Undo:
    """A roll call that is held lets nobody in."""
    return put(control.generations, "is_held", lambda state, now_s: False)


def orders_lost_in_restart() -> Undo:
    """The ledger has no orders."""
    durable = tuple(kind for kind in DURABLE if kind.__name__ not in ("OrderGiven", "OrderTook"))
    return put(Shelf, "durable", durable)


def founded_again() -> Undo:
    """Without a state here the run begins anew, as if it had never begun."""

    def from_v0(state: Any, readys: Any) -> Any:
        begun = control.rollcall.found(state, readys)
        return None if isinstance(begun, str) else replace(begun, founding=False)

    return put(control.rollcall, "from_v0", from_v0)


MUTATIONS: dict[str, Callable[[], Undo]] = {
    mutation.__name__: mutation
    for mutation in (
        stale_deal,
        overlapping_keep,
        attempt_ignored,
        record_ignored,
        record_without_sums,
        no_line,
        incarnation_not_raised,
        no_orders_table,
        nothing_known,
        least_in_force,
        go_before_all_are_ready,
        send_before_commit,
        begun_not_durable,
        failures_as_events,
        lowest_position,
        order_from_the_next_row,
        joiners_shut_out,
        orders_lost_in_restart,
        founded_again,
    )
}

RARE = {"no_line", "overlapping_keep", "record_without_sums", "founded_again"}
"""Noticed by one schedule in a hundred, or in thousands: by hand. Each has a law of its own in the other tests."""
