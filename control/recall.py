"""What a control that starts anew knows: its state, folded again from the facts in the ledger."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from .apply import apply
from .config import Settings
from .events import Event, Resumed
from .ledger import Ledger
from .seats import Seats
from .state import Seat, State, Told
from .totals import Account
from .versions import WINDOW, Versions, reported


def recalled(ledger: Ledger, settings: Settings, now_s: float) -> State:
    """The state of a run at this moment. Everybody counts as away until heard again, for silence_s as not yet lost."""
    state = State(
        run_id=settings.run_id,
        paths=settings.paths,
        tree=settings.tree,
        incarnation=ledger.incarnation,
        silence_s=settings.silence_s,
        began_s=now_s,
        remembers=True,  # Also what an earlier control was told in place of its ledger counts.
    )
    facts = list(ledger.facts())
    resumed = max((place for place, event in enumerate(facts) if isinstance(event, Resumed)), default=0)
    for event in facts[resumed:]:  # what was before had another tree
        state = apply(state, _at(event, now_s))
    totals = ledger.totals()
    seats = {sphere: _away(seat, totals, now_s) for sphere, seat in state.seats.items()}
    versions = _versions(ledger, state)
    known = state.begun is not None or state.ended is not None
    adopting_s = now_s + settings.silence_s if known or settings.adopt else None
    return replace(
        state,
        seats=Seats(seats),
        versions=versions,
        incarnation=ledger.incarnation,
        adopting_s=adopting_s,
        remembers=settings.adopt,
    )


def _at(event: Event, now_s: float) -> Event:
    """Instants are of a clock that is gone."""
    changes: dict[str, Any] = {"at_s": now_s} if hasattr(event, "at_s") else {}
    if hasattr(event, "until_s"):
        changes["until_s"] = now_s
    return replace(event, **changes)


def _away(seat: Seat, totals: dict[str, Any], now_s: float) -> Seat:
    account = Account(totals=totals[seat.path]) if seat.path in totals else seat.account
    return replace(
        seat, connected=False, lost_s=now_s, heard_s=now_s, beat=None, ready=None, told=Told(), account=account
    )


def _versions(ledger: Ledger, state: State) -> Versions:
    """The newest rows as they were reported, and what was noted of all before them."""
    rows = ledger.newest_rows(WINDOW)
    if not rows:
        return state.versions
    before = rows[0].version - 1
    versions = Versions(held=min(before, ledger.held()), agreed=before, progress=ledger.progress())
    for row in rows:
        versions = reported(versions, 0, row, state.exact)
    return versions
