"""How long a micro-batch takes on each sphere, as its rows tell."""

from __future__ import annotations

from statistics import median

from .state import Seat, State

LAPS = 3
"""Steps of each sphere that are looked at, all of them made since the last deal."""


def measured(state: State) -> dict[int, float] | None:
    """Sphere -> seconds a micro-batch, of all members; None while one of them has shown too little.

    A sphere that was dealt nothing shows nothing: it keeps the pace that it was last known to have.
    """
    since = max([state.begun.position.version if state.begun else 0, *_dealt_at(state)])
    paces: dict[int, float] = {}
    for seat in state.member_seats():
        pace = _pace_s(seat, since)
        if pace is None:
            pace = state.wanted.paces.get(seat.sphere) if seat.version >= since + LAPS else None
        if pace is None:
            return None
        paces[seat.sphere] = pace
    return paces


def _dealt_at(state: State) -> list[int]:
    """The versions from which the orders that dealt anew are in force."""
    return [order.version for order in state.orders if order.what == "deal" and order.version is not None]


def _pace_s(seat: Seat, since: int) -> float | None:
    """The median over the newest steps; three significant digits, since more would tell of nothing."""
    laps = [lap for lap in seat.account.laps if lap.micro_batches and lap.at[1] > since][-LAPS:]
    if len(laps) < LAPS:
        return None
    own_s = [(lap.seconds.get("data", 0.0) + lap.seconds.get("compute", 0.0)) / lap.micro_batches for lap in laps]
    pace_s = float(f"{median(own_s):.3g}")
    return pace_s if pace_s > 0 else None
