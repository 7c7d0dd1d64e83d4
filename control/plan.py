"""What control does next: compare what each sphere should have heard with what it was told and says it knows.

Level-triggered: nothing is sent because something happened, all because something is missing. So a lost message
heals by itself, and a restarted control needs no list of what it had begun to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TypeAlias

import msgspec

from .decide import decide
from .events import Event, GenerationBegun
from .flights import parts_to_seal
from .newcomers import dials
from .protocol import (
    LEFT,
    NO_GENERATION,
    End,
    Expelled,
    Generation,
    Go,
    How,
    Orders,
    Phase,
    Refused,
    SaveOver,
    SaveState,
    Seal,
    Tick,
    ToSphere,
    View,
    without_paces,
)
from .saves import key_of
from .seal import control_as_json, spheres_as_json
from .state import Seat, State

AGAIN_S = 1.0
"""What was told and is not seen in the heartbeats after so long is told again."""

PACES_TOLD = 4
"""Of so many orders, the newest, a View tells the paces."""

TICKS_IN_SILENCE = 5
"""So that a few that are late are no silence."""

REST_WAITED_FOR_S, REST_LEAST_S, REST_S, REST_MOST_S = 0.002, 0.01, 2e-4, 0.2
"""Where somebody waits for an answer, and where nobody does, so that what comes at nearly the same time is heard
together: a look that begins after a sleep costs several times what one does that follows another. For each seat; and at
most: a look takes a fraction of it, and of a gap that is much longer the clock counts a part alone."""


class Send(msgspec.Struct, frozen=True):
    """Tell `sphere`; then apply Sent."""

    sphere: int
    message: ToSphere


class Decide(msgspec.Struct, frozen=True):
    """A fact that control concluded: write it, apply it, and plan again before anything is sent."""

    event: Event


Effect: TypeAlias = Send | Decide


def plan(state: State, now_s: float) -> list[Effect]:
    """What is to be done at this moment. Empty once all of it has been done and applied."""
    event = decide(state, now_s)
    if event is not None:
        return [Decide(event)]
    view = cache(partial(_view_for, state))
    tick, tick_due_s = Tick(incarnation=state.incarnation), now_s - tick_s(state.silence_s)
    effects: list[Effect] = [Send(sphere, dial) for sphere, dial in dials(state, now_s)]
    for seat in state.seats.values():
        if seat.connected and not _knows_all(state, seat, tick_due_s):
            inside = seat.sphere in state.member_ids
            messages = _for_seat(state, seat, view, inside, tick, now_s)
            effects.extend(Send(seat.sphere, message) for message in messages)
    return effects


def _knows_all(state: State, seat: Seat, tick_due_s: float) -> bool:
    """Whether a look at one that computes would find nothing to say: so a look at a thousand of them costs little. May
    be False for nothing, and is True only where `_for_seat` says nothing."""
    told, beat = seat.told, seat.beat
    if beat is None or told.tick_s <= tick_due_s:
        return False
    if not told.view == told.go == beat.generation == state.generation == state.running:
        return False
    if beat.phase is Phase.FROZEN or not beat.seen >= told.order >= len(state.orders):
        return False
    at_work = not (seat.refused or seat.expelled or seat.released or seat.saving is not None or state.ended is not None)
    return at_work and (state.saves.flight is None or state.saves.flight.writers[0] != seat.sphere)


def _for_seat(
    state: State, seat: Seat, view: Callable[[bool], View], is_member: bool, tick: Tick, now_s: float
) -> Iterator[ToSphere]:
    if seat.refused:  # Before an end that may have come of it: this is the sentence for its user.
        if not seat.told.over:
            yield Refused(text=seat.refused)
        return
    if state.ended is not None:
        if not seat.told.over:
            yield End(status=state.ended.status, reason=state.ended.reason)
        return
    if seat.expelled:
        if not seat.told.over:
            yield Expelled(text=seat.expelled, final=seat.path in state.wanted.terminated)
        return
    if seat.released:
        yield from _save_over(state, seat)
        if not seat.told.over:
            yield End(status=LEFT, reason="it was asked to leave, and the run goes on without it")
        return
    if is_member:
        yield from _view(state, seat, partial(view, True), now_s)
        yield from _go(state, seat, now_s)
        yield from _orders(state, seat, now_s)
    elif seat.beat is not None and NO_GENERATION < seat.beat.generation < state.generation:
        # Left out, or back from silence: its own generation is over.
        yield from _view(state, seat, partial(view, False), now_s)
    yield from _seal(state, seat, now_s)
    yield from _save_over(state, seat)
    if seat.told.tick_s <= now_s - tick_s(state.silence_s):
        yield tick


def tick_s(silence_s: float) -> float:
    """Seconds between Ticks."""
    return max(silence_s / TICKS_IN_SILENCE, 0.05)


def rest_s(seats: int, waited_for: bool) -> float:
    """Seconds between two looks at so many seats. Each look takes time for each seat: without a rest control would
    look again after every few messages, and with a thousand spheres do nothing else."""
    return min((REST_WAITED_FOR_S if waited_for else REST_LEAST_S) + seats * REST_S, REST_MOST_S)


def _view(state: State, seat: Seat, view: Callable[[], View], now_s: float) -> Iterator[ToSphere]:
    told = seat.told
    unheard = seat.beat is not None and seat.beat.generation < state.generation
    unheard = unheard and not (seat.ready is not None and seat.ready.generation == state.generation)
    if told.view != state.generation or (unheard and now_s - told.view_s > AGAIN_S):
        yield view()


def _view_for(state: State, is_member: bool) -> View:
    """The same for all members, and for all others: a thousand names are put together, and encoded, once."""
    orders = without_paces([order.wanted for order in state.orders[: state.orders_in_view]], but=PACES_TOLD)
    word = word_of(state.secret, state.generation) if is_member else ""
    members = list(state.members)
    return View(generation=state.generation, members=members, orders=orders, restoring=state.called_for, word=word)


def word_of(secret: bytes, generation: Generation) -> str:
    """By which the larders of a generation know its members: nobody else is told, and nobody can make it up. The same
    from a control that starts anew."""
    return hashlib.blake2b(repr(generation).encode(), key=secret, digest_size=16).hexdigest() if secret else ""


def _go(state: State, seat: Seat, now_s: float) -> Iterator[ToSphere]:
    begun = state.begun
    if begun is None or begun.generation != state.generation or seat.sphere not in begun.how:
        return
    beat = seat.beat
    lacks = beat is not None and beat.phase is Phase.FROZEN and beat.failed_in != begun.generation
    if seat.told.go != begun.generation or (lacks and now_s - seat.told.go_s > AGAIN_S):
        yield go_for(begun, seat.sphere)


def go_for(begun: GenerationBegun, sphere: int) -> Go:
    """What one member is told when a generation begins; the deal of all is the same in every Go."""
    how = begun.how[sphere]
    return Go(
        generation=begun.generation,
        position=begun.position,
        how=how,
        keep=sphere in begun.keep,
        deal=begun.deal,
        donor=begun.donors.get(sphere, 0),
        digest=begun.digest,
        record=begun.record if how is How.RECORD else None,
        in_force=begun.in_force,
        in_force_at=begun.in_force_at,
        known=begun.known,
        load=begun.load if how is How.LOAD else None,
        save=begun.save,
    )


def _orders(state: State, seat: Seat, now_s: float) -> Iterator[ToSphere]:
    """Only after the View, which brings all orders before it: so a sphere's numbers have no gap."""
    told = seat.told
    if told.view != state.generation or not state.orders:
        return
    known = seat.beat.seen if seat.beat else 0
    late = known < told.order and now_s - told.order_s > AGAIN_S
    first = min(known, told.order) if late else told.order
    if first < len(state.orders):
        yield Orders(incarnation=state.incarnation, orders=[order.wanted for order in state.orders[first:]])


def _seal(state: State, seat: Seat, now_s: float) -> Iterator[ToSphere]:
    """The first writer of a save is told to write the manifest once all parts are on the disk."""
    flight, told = state.saves.flight, seat.told
    if (
        flight is None
        or flight.writers[0] != seat.sphere
        or (told.seal == flight.key and now_s - told.seal_s < AGAIN_S)
    ):
        return
    parts = parts_to_seal(state)
    if parts:
        generation, version = flight.key
        control, spheres = control_as_json(state), spheres_as_json(state)
        yield Seal(generation=generation, version=version, parts=parts, control=control, spheres=spheres)


def _save_over(state: State, seat: Seat) -> Iterator[ToSphere]:
    """A writer that waits for the end of its save is told it, once over each connection."""
    saving = seat.saving
    if saving is None or saving.state is SaveState.FAILED or seat.told.save_over == key_of(saving):
        return
    kept = state.saves.is_kept(saving)
    if kept is not None:
        yield SaveOver(generation=saving.generation, version=saving.version, kept=kept)
