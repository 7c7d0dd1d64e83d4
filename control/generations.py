"""When a generation is to begin, and with whom: pure decisions over the state.

There is one kind of generation, whatever happened: somebody was lost, came, came back, or a collective failed. It may
begin at any moment, in the middle of a step too.

Whose lineage (PROTOCOL: two trees under one ledger). Only members of the generation that was last told to go may carry
on, while one of them lives. If none of them is here, control waits for one; but not for those that are known dead.
"""

from __future__ import annotations

from .events import Adopted, GenerationBegun, GenerationProposed, RestoreRefused
from .leaving import owes_nothing
from .losses import BROKEN, is_gone, is_here
from .protocol import NO_GENERATION, Generation, Member
from .rollcall import Readys, begun, is_called_to_restore, readys_of, restored
from .state import Seat, State

JOIN = 0.2
"""Of silence_s: those who come are collected for so long, so that ten who come at once cost one generation."""

ASK_AGAIN = 10
"""Of silence_s: a roll call that nothing could begin from is repeated; the checkpoint's file may be there again."""

TAKEOVER_S = 60.0
"""With every member of the running generation silent, and none proved dead, others carry on after so long."""


def proposed(state: State, now_s: float) -> GenerationProposed | None:
    """The next generation, if there has to be one now."""
    if state.adopting_s is not None:
        return None
    here = seats_here(state, now_s)
    if not here:
        return None
    if state.begun is None:
        anew = _can_be_founded(state, tuple(seat.member for seat in here))
    else:
        anew = _is_due(state, here, now_s) and not waits_for(state, now_s)
    if not anew:
        return None
    restoring = state.orders[state.restoring - 1].text if state.restoring and state.begun is not None else None
    return GenerationProposed(
        generation=_next(state), members=tuple(seat.member for seat in here), at_s=now_s, restoring=restoring
    )


def seats_here(state: State, now_s: float) -> list[Seat]:
    """Everybody who is to take part now, in tree order."""
    at, seats = state.sphere_at, state.seats
    known = [seats[at[path]] for path in state.paths if path in at]
    leaving = state.wanted.leaving
    return [
        seat for seat in known if is_here(state, seat, now_s) and not (leaving and owes_nothing(state, seat, now_s))
    ]


def waits_for(state: State, now_s: float, readys: Readys | None = None) -> list[Seat]:
    """The members of the running generation that nothing can go on without; empty if it can.

    All silent at once looks like control being cut off from a tree that is training: then it does nothing. readys: the
    answers to a roll call; then those who are here without a state don't count, for the others' may be ahead of all.
    """
    if state.begun is None:
        return []
    line = [state.seats[sphere] for sphere in state.line() if sphere in state.seats]
    if readys is None:
        holds = any(is_here(state, seat, now_s) for seat in line)
    else:
        holds = any(ready.holds_state for sphere, ready in readys.items() if sphere in state.line())
    if holds:
        return []
    asked = readys or {}
    gone = {seat.sphere for seat in line if seat.dead or seat.expelled or seat.released or seat.failed}
    missing = [seat for seat in line if seat.sphere not in gone and seat.sphere not in asked]
    if missing and now_s - max(_silent_since_s(seat) for seat in missing) > TAKEOVER_S:
        return []
    return missing


def beginning(state: State, now_s: float) -> GenerationBegun | str | None:
    """How the generation that was called begins; a sentence if the run can't go on; None while control has to wait."""
    if state.generation == state.running:
        return None
    readys = readys_of(state)
    if readys is None or waits_for(state, now_s, readys):
        return None
    return begun(state, readys)


def restore_refused(state: State, now_s: float) -> RestoreRefused | None:
    """Nobody can read the checkpoint that is to be restored: the run goes on as if nothing had been ordered."""
    if state.generation == state.running or not is_called_to_restore(state):
        return None
    readys = readys_of(state)
    if readys is None or restored(state, readys) is not None:
        return None
    name = state.called_for
    what = f"{name!r} can be read nowhere as a whole" if name else "there is no whole one"
    return RestoreRefused(number=state.restoring, text=f"restore: of the run's checkpoints, {what} [LW606]", at_s=now_s)


def is_held(state: State, now_s: float) -> bool:
    """Whether all have answered the roll call, and nothing can begin: somebody with a state has to come."""
    return state.generation != state.running and readys_of(state) is not None and beginning(state, now_s) is None


def adopted(state: State, now_s: float) -> Adopted | None:
    """Whether a control that started anew has found its generation, or has waited long enough for it."""
    if state.adopting_s is None:
        return None
    if state.begun is not None and all(_runs_on(state, sphere) for sphere in state.line()):
        return Adopted(whole=True, at_s=now_s)
    if now_s >= state.adopting_s and not (state.remembers and state.begun is None):
        return Adopted(whole=False, at_s=now_s)
    return None


def _runs_on(state: State, sphere: int) -> bool:
    seat = state.seats.get(sphere)
    beat = seat.beat if seat is not None and seat.connected else None
    return beat is not None and beat.generation == state.running and beat.failed_in != state.running


def _can_be_founded(state: State, here: tuple[Member, ...]) -> bool:
    """Everybody who is expected is here, and has not been called together as they are. Who has left already is expected
    no more: nobody may ever come in its place."""
    expected = {path for path in state.paths if (seat := state.seat_at(path)) is None or not seat.released}
    if len(here) < state.wait_for or (not state.wait_for and expected != {member.path for member in here}):
        return False
    if _is_called_by_another(state) or here != state.members:
        return True
    return any(state.seats[member.sphere].broke_s is not None for member in here)


def _is_due(state: State, here: list[Seat], now_s: float) -> bool:
    ids = {seat.sphere for seat in here}
    seats = state.member_seats()
    if any(seat.sphere not in ids and _is_out(state, seat, now_s) for seat in seats):
        return True
    if any(seat.sphere not in ids for seat in seats):
        return False  # A connection that may stand again in a moment.
    if _is_called_by_another(state):
        return True
    if state.restoring and state.generation == state.running:
        return True
    broke = [seat.broke_s for seat in seats if seat.broke_s is not None]
    if broke and now_s - min(broke) >= BROKEN * state.silence_s:
        return True
    waiting = [state.seats[sphere] for sphere in ids - state.member_ids]
    if state.generation != state.running:
        if not is_held(state, now_s):
            return False
        if now_s - state.proposed_s >= ASK_AGAIN * state.silence_s:
            return True
    if not waiting or any(seat.closed is not None for seat in seats):
        return False
    return now_s - min(max(seat.waits_s, seat.barred_s) for seat in waiting) >= JOIN * state.silence_s


def _is_called_by_another(state: State) -> bool:
    """Whether the roll call is of a control that died over it: who has heard of this one obeys none of another."""
    return state.generation != state.running and state.generation[0] < state.incarnation


def _is_out(state: State, seat: Seat, now_s: float) -> bool:
    return is_gone(state, seat, now_s) or seat.barred_s > now_s or owes_nothing(state, seat, now_s)


def _next(state: State) -> Generation:
    incarnation, number = state.generation if state.generation != NO_GENERATION else (state.incarnation, 0)
    return (state.incarnation, number + 1 if incarnation == state.incarnation else 1)


def _silent_since_s(seat: Seat) -> float:
    return seat.heard_s if seat.connected else seat.lost_s
