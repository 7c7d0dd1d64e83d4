"""What control concludes from what it sees: a chain of small rules, the first that has something to say is heard.

A lost sphere ends nothing: the others go on in a new generation, and a successor joins it (losses, generations,
rollcall). What ends a run is its end, an order, or what would come again on whichever machine: bad data, a model that
raises, NaN under the policy to stop, a version that contradicts what was agreed.
"""

from __future__ import annotations

from .events import DealKept, Event, EverybodyLeft, OrderGiven, OrderTook, RunEnded, VersionSettled
from .flights import SAVE_S, save_ended
from .generations import adopted, beginning, proposed, restore_refused
from .leaving import let_go
from .losses import barred, expelled
from .newcomers import judged
from .paces import paces_to_deal_by
from .protocol import ORDERS_MOST, Phase
from .state import ControlStatus, Seat, State
from .versions import Conflict, settled

LEAVE_S = 5.0
"""From End to exit: what has not left by then is somebody else's to kill."""

COME_S = 120.0
"""From control's start to the last Hello: importing torch on a machine that is busy takes its time."""


UNREMEMBERED = (
    f"this control has no ledger of the run, and nobody who knows it came within {COME_S:g} s: the logs of its spheres "
    "say whether it was over; else go on from a checkpoint with `lightwatch train --resume` [LW409]"
)
"""Nobody can do better where the ledger is lost just as the end is told: who has heard it is gone, and who comes new in
the place of one that had not knows nothing. Beginning anew could make a second run beside a tree that trains."""


def decide(state: State, now_s: float) -> Event | None:
    """The next fact that follows from the state at this moment, or None."""
    if state.ended is not None:
        return _all_left(state, now_s)
    return (
        _refused(state, now_s)
        or _failed(state, now_s)
        or _contradicted(state, now_s)
        or adopted(state, now_s)
        or (expelled(state, now_s) if state.adopting_s is None else None)
        or _settled(state)
        or (let_go(state, now_s) if state.adopting_s is None else None)
        or _parted(state, now_s)
        or _not_come(state, now_s)
        or _stopped_before_it_began(state, now_s)
        or _barred(state, now_s)
        or judged(state, now_s)
        or proposed(state, now_s)
        or _order_in_force(state)
        or save_ended(state, now_s)
        or (restore_refused(state, now_s) if state.adopting_s is None else None)
        or _roll_called(state, now_s)
        or _closed(state, now_s)
        or _dealt_anew(state)
    )


def _all_left(state: State, now_s: float) -> Event | None:
    if state.ended is None or state.status is ControlStatus.STOPPED:
        return None
    gone = all(not seat.connected for seat in state.seats.values())
    if state.adopting_s is not None and now_s < state.adopting_s:
        return None  # It ended before control started anew: who has not heard of it is about to come back.
    return EverybodyLeft(at_s=now_s) if gone or now_s - state.ended.at_s > LEAVE_S else None


def _fail(reason: str, now_s: float, usage: bool = False) -> RunEnded:
    return RunEnded(status="failed", reason=reason, at_s=now_s, usage=usage)


def _refused(state: State, now_s: float) -> Event | None:
    """Before the run has begun it needs everybody whom its tree names; else who does not fit is left outside."""
    needed = state.begun is None and not state.wait_for
    texts = [seat.refused for seat in state.seats.values() if seat.refused and not seat.unreached] if needed else []
    return _fail(texts[0], now_s) if texts else None


def _failed(state: State, now_s: float) -> Event | None:
    """What a member of the run says it can't do would fail on the others too; a sick one is the exception."""
    for seat in state.seats.values():
        if seat.failed is not None and not seat.failed.sick and not seat.expelled and not seat.released:
            if (state.begun is None and not state.wait_for) or seat.sphere in state.line():
                return _fail(f"{seat.name} failed {seat.doing}: {seat.failed.text}", now_s, seat.failed.usage)
    return None


def _contradicted(state: State, now_s: float) -> Event | None:
    conflict = state.versions.conflict
    return _fail(_conflict_text(state, conflict), now_s) if conflict else None


def _conflict_text(state: State, conflict: Conflict) -> str:
    one, other = (state.seats.get(claim.sphere) for claim in (conflict.one, conflict.other))
    return (
        f"version {conflict.version} is not one: {one.name if one else 'a sphere'} and "
        f"{other.name if other else 'a sphere'} hold different weights ({conflict.what}) [LW305]"
    )


def _settled(state: State) -> Event | None:
    if not state.versions.rivals:
        return None
    # Whoever has closed has met the tail that agreed on the last version: no row of a later one will ever say so.
    reached = {seat.sphere: seat.version + (seat.closed is not None) for seat in state.seats.values()}
    claim = settled(state.versions, reached)
    return VersionSettled(sphere=claim.sphere, row=claim.row) if claim else None


def _barred(state: State, now_s: float) -> Event | None:
    return barred(state, now_s) if state.begun is not None and state.adopting_s is None else None


def _parted(state: State, now_s: float) -> Event | None:
    """One sphere has ended its training where another one waits in a step: neither will ever have all it waits for.

    A network may be slow for ever, for then all are in the same step, or all in the same tail. A heartbeat that lags
    behind is of an older version than the end. silence_s is for a script that leaves on all from within a step.
    """
    if state.generation != state.running:
        return None
    seats = [seat for seat in state.member_seats() if now_s - seat.stands_s > state.silence_s]
    ends = [(seat, version) for seat in seats if (version := _ended_at(state, seat)) is not None]
    for one, version in ends:
        for other in seats:
            if _waits_in_a_step(state, other, version):
                return _fail(
                    f"{one.name} ended its training at version {version}, while {other.name} goes on: all spheres must "
                    "make the same number of steps, so let no clock and no rank decide how many [LW808]",
                    now_s,
                )
    return None


def _ended_at(state: State, seat: Seat) -> int | None:
    """The version at which this sphere waits in the closing tail, or has closed; None: it does neither."""
    if seat.closed is not None:
        return seat.closed.version
    beat = seat.beat
    waits = beat is not None and beat.generation == state.running and beat.phase is Phase.REDUCING and beat.closing
    return beat.position.version if beat is not None and waits else None


def _waits_in_a_step(state: State, seat: Seat, version: int) -> bool:
    """Whether this sphere waits for the sums of a step from `version` on, or from a later one."""
    beat = seat.beat
    if beat is None or beat.generation != state.running or seat.closed is not None:
        return False
    return beat.phase is Phase.REDUCING and not beat.closing and beat.position.version >= version


def _not_come(state: State, now_s: float) -> Event | None:
    if state.begun is not None or now_s - state.began_s < COME_S:
        return None
    if state.remembers:
        return _fail(UNREMEMBERED, now_s)
    absent = [path for path in state.paths if state.seat_at(path) is None]
    if absent:
        return _fail(f"sphere {absent[0]} did not come within {COME_S:g} s; see its log [LW409]", now_s)
    kept_out = [seat.refused for seat in state.seats.values() if seat.unreached and not state.wait_for]
    return _fail(kept_out[0], now_s) if kept_out else None


def _stopped_before_it_began(state: State, now_s: float) -> Event | None:
    if state.begun is None and state.wanted.stopped:
        return RunEnded(status="stopped", reason="stopped before the first step", at_s=now_s)
    return None


def _roll_called(state: State, now_s: float) -> Event | None:
    """Once all have answered; a Ready that stays out is a lost sphere."""
    if state.adopting_s is not None:
        return None
    begun = beginning(state, now_s)
    return _fail(begun, now_s) if isinstance(begun, str) else begun


def _order_in_force(state: State) -> Event | None:
    """A row says what its tail agreed, so one is proof for all; while paused there are no rows, and each must say so.

    A generation that begins with orders in force brings them to all at its start position.
    """
    waiting = [order.wanted.number for order in state.orders if order.version is None]
    if not waiting or state.begun is None:
        return None
    for version, claim in sorted(state.versions.claims.items()):
        if claim.row.in_force >= waiting[0]:
            return _took(state, claim.row.in_force, version)
    if state.begun.in_force >= waiting[0]:
        return OrderTook(number=state.begun.in_force, version=state.begun.position.version)
    beats = [seat.beat for seat in state.member_seats() if seat.beat is not None]
    number = min((beat.in_force for beat in beats), default=0)
    if len(beats) == len(state.members) and number >= waiting[0]:
        return _took(state, number, max(beat.position.version for beat in beats))
    return None


def _took(state: State, number: int, version: int) -> OrderTook:
    """Orders up to `number` are in force, as seen at `version`.

    While paused at X they take effect one by one at X, up to the one that ends the pause; the evidence may come later.
    """
    number = min(number, len(state.orders))
    done = [order for order in state.orders if order.version is not None]
    last = done[-1] if done else None
    if last is None or last.version is None or not last.wanted.paused or last.wanted.stopped:
        return OrderTook(number=number, version=version)
    after = [order.wanted for order in state.orders[len(done) : number]]
    until = next((wanted.number for wanted in after if not wanted.paused or wanted.stopped), number)
    return OrderTook(number=until, version=last.version)


def _closed(state: State, now_s: float) -> Event | None:
    seats = state.member_seats()
    if not seats or any(seat.closed is None for seat in seats):
        return None
    flight = state.saves.flight
    if flight is not None and now_s - flight.began_s < SAVE_S:
        return None  # a stop saves the version that it stops at
    closings = [(seat, seat.closed) for seat in seats if seat.closed is not None]
    first_seat, first = closings[0]
    for seat, closed in closings:
        if (closed.version, closed.digest, closed.state_digest) != (first.version, first.digest, first.state_digest):
            return _fail(
                f"{seat.name} ended at version {closed.version} with digest {closed.digest[:12]} (state "
                f"{closed.state_digest[:12]}), sphere {first_seat.path} at {first.version} with {first.digest[:12]} "
                f"(state {first.state_digest[:12]}) [LW305]",
                now_s,
            )
    stopped = any(closed.reason == "stopped" for _, closed in closings)
    reason = f"stopped at version {first.version}" if stopped else f"reached version {first.version}"
    return RunEnded(status="stopped" if stopped else "completed", reason=reason, at_s=now_s)


def _dealt_anew(state: State) -> Event | None:
    """Another deal of micro-batches, where what was measured says that it saves a notable part of the time."""
    if state.begun is None or state.wanted.stopped or state.wanted.number >= ORDERS_MOST:
        return None
    if any(order.version is None for order in state.orders):
        return None
    told = min((seat.version for seat in state.member_seats()), default=-1)
    if told <= state.deal_kept:
        return None
    paces = paces_to_deal_by(state)
    if paces is None:
        return DealKept(version=told)
    return OrderGiven(wanted=state.wanted.then(paces=paces), what="deal", request="")
