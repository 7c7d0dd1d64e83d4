"""How a sphere leaves politely: pure decisions over the state.

Who is to leave says so in each heartbeat, or a client says it; either way it becomes one order, `Wanted.leaving`.
  1. From the boundary at which the order is in force it is dealt nothing (deal.staying).
  2. Once one who stays stands beyond all that it ever computed, the next generation is without it: nothing of it is in
     any sum, so nobody computes anything again.
  3. When that generation runs, it is released: a fact, in the ledger before it hears of it, so that no control will
     wait for it. Whoever is in no generation, running or called, is released at once.

If nobody stays, there is nobody to give the work to: all go on, control orders a checkpoint, and once that is whole or
given up all are released. What they compute while it is written is made again by whoever comes: the same bits, and
computing costs them no more than waiting would.
"""

from __future__ import annotations

from .events import OrderGiven, RunEnded, SphereReleased
from .losses import is_gone, is_here
from .protocol import Phase, Position, Wanted
from .state import Order, Seat, State

AT_WORK = (Phase.COMPUTING, Phase.REDUCING, Phase.PAUSED)


def let_go(state: State, now_s: float) -> OrderGiven | SphereReleased | RunEnded | None:
    """The next thing to be done for those who are to leave, or None."""
    if state.wanted.stopped:  # all are about to leave, or have
        text = "stopped once all spheres had left"
        return RunEnded(status="stopped", reason=text, at_s=now_s) if all_have_left(state, now_s) else None
    asked = _asked(state)
    if asked is not None or not state.wanted.leaving:
        return asked
    return _released(state, now_s) or _farewell(state, now_s)


def at_or_below(state: State, path: str) -> list[Seat]:
    """Those who are here at a path, or below the node that it names."""
    seats = [seat for each in state.paths if (seat := state.seat_at(each)) is not None]
    there = [seat for seat in seats if seat.path == path or seat.path.startswith(f"{path}/")]
    return [seat for seat in there if seat.connected and not seat.released and not seat.expelled]


def is_leaving(state: State, seat: Seat) -> bool:
    """Whether it was asked to leave, and has not been released yet."""
    return seat.sphere in state.wanted.leaving and not seat.released


def all_have_left(state: State, now_s: float) -> bool:
    """Whether the run has begun and nobody is here, since all of its line were let go."""
    line = [state.seats[sphere] for sphere in state.line() if sphere in state.seats]
    here = any(is_here(state, seat, now_s) for seat in state.seats.values())
    return not here and bool(line) and all(seat.released for seat in line)


def next_wanted(state: State, spheres: list[int]) -> Wanted:
    """The next order: these are to leave too. Those who are known no more are dropped from the list."""
    leaving = [sphere for sphere in state.wanted.leaving if sphere in state.seats]
    return state.wanted.then(leaving=[*leaving, *spheres])


def owes_nothing(state: State, seat: Seat, now_s: float) -> bool:
    """Whether the next generation is to be without it: it leaves, and nothing that it computed is to be summed yet."""
    begun = state.begun
    if begun is None or state.wanted.stopped or seat.sphere not in begun.deal or not is_leaving(state, seat):
        return False
    since = next((each.version for each in state.orders if seat.sphere in each.wanted.leaving), None)
    if since is None or any(member.closed is not None for member in state.member_seats()):
        return False
    paused = seat.beat is not None and seat.beat.phase is Phase.PAUSED  # then nobody computes anything
    return any(
        position.version >= since and (position.version > begun.position.version or paused)
        for other in state.seats.values()
        if not is_leaving(state, other) and (position := _works_at(state, other, now_s)) is not None
    )


def _works_at(state: State, seat: Seat, now_s: float) -> Position | None:
    """Where a member of the running generation stands, if it works there."""
    beat = seat.beat
    if beat is None or seat.sphere not in state.line() or not is_here(state, seat, now_s):
        return None
    works = beat.generation == state.running and beat.failed_in != state.running and beat.phase in AT_WORK
    return beat.position if works else None


def _asked(state: State) -> OrderGiven | None:
    """What spheres say in their heartbeats, as an order: one for all who have said so by now."""
    ask = [
        seat.sphere
        for seat in state.seats.values()
        if seat.connected and seat.beat is not None and seat.beat.leaving
        if not (seat.released or seat.expelled or seat.sphere in state.wanted.leaving)
    ]
    return OrderGiven(wanted=next_wanted(state, ask), what="drain", request="") if ask else None


def _released(state: State, now_s: float) -> SphereReleased | None:
    ready = _is_farewell_said(state, now_s)
    needed = state.line() | state.member_ids
    for seat in state.seats.values():
        if is_leaving(state, seat) and (seat.sphere not in needed or ready):
            return SphereReleased(sphere=seat.sphere, at_s=now_s)
    return None


# ---------------------------------------------------------------- nobody stays


def _farewell(state: State, now_s: float) -> OrderGiven | None:
    """The order for a checkpoint before all leave, unless one was given since the last of them was asked to."""
    last, wanted = _newest_drain(state), state.wanted
    if last is None or wanted.saves > state.saves.settled or wanted.saves > last.wanted.saves:
        return None  # one is on its way, or was made since
    if _anybody_stays(state, now_s) or not any(_works_at(state, seat, now_s) for seat in state.seats.values()):
        return None
    return OrderGiven(wanted=wanted.then(saves=wanted.saves + 1, save_as=""), what="checkpoint", request="")


def _is_farewell_said(state: State, now_s: float) -> bool:
    """Whether all who are left may go."""
    last = _newest_drain(state)
    return last is not None and state.saves.settled > last.wanted.saves and not _anybody_stays(state, now_s)


def _newest_drain(state: State) -> Order | None:
    """The last order by which somebody more was to leave; what it was is not asked, for one may be remembered."""
    before: set[int] = set()
    found = None
    for order in state.orders:
        leaving = set(order.wanted.leaving)
        found = order if leaving - before else found
        before = leaving
    return found


def _anybody_stays(state: State, now_s: float) -> bool:
    """Whether there is one to go on: here, or of the line and about to be back."""
    return any(
        is_here(state, seat, now_s) or (seat.sphere in state.line() and not is_gone(state, seat, now_s))
        for seat in state.seats.values()
        if seat.sphere not in state.wanted.leaving
    )
