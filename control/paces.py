"""How long a micro-batch takes on each sphere, as its rows tell, and whether dealing by it would pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from .deal import is_worth, staying
from .state import Seat, State
from .totals import RECENT

LAPS = 3
"""Steps of each sphere that are looked at before the first deal of a generation; twice as many before each later one:
what only wavers settles, and what has changed is noticed within RECENT steps."""

RARER = 4
"""The n-th deal of a generation waits for n times so many versions at least: each is an order, which all keep and which
every newcomer is told, and so a million versions make some 700 of them, however a machine wavers."""

DEALS = ("deal", "rebalance")
"""Orders that say a deal: control's own, and a client's."""

AGAIN = 300
"""A sphere that was too slow to be dealt anything is given another try after so many versions."""


def paces_to_deal_by(state: State) -> dict[int, float] | None:
    """The measured seconds a micro-batch of all members, if a deal by them saves a notable part of the time."""
    if state.proof is None or state.generation != state.running:
        return None
    paces = measured(state)
    spheres = staying([member.sphere for member in state.members], state.wanted.leaving)
    if paces is None or not is_worth(state.proof.micro_batches, spheres, state.wanted.paces, paces):
        return None
    return paces


def measured(state: State) -> dict[int, float] | None:
    """Sphere -> seconds a micro-batch, of all members; None while one of them has shown too little.

    A sphere that was dealt nothing shows nothing: it keeps the pace it was known to have, and later gets the others'.
    """
    began = state.begun.position.version if state.begun else 0
    deals = [order.version for order in state.orders if order.what in DEALS and (order.version or 0) > began]
    since = max([began, *(version for version in deals if version is not None)])
    laps = min(LAPS * 2 ** len(deals), RECENT - 1)
    seats = state.member_seats()
    if not seats or any(seat.version < since + max(laps, RARER * len(deals)) for seat in seats):
        return None
    kept = {seat.sphere for seat in seats if seat.version < since + AGAIN}
    old = {sphere: pace for sphere, pace in state.wanted.paces.items() if sphere in kept}
    return _filled({seat.sphere: _pace_s(seat, since, laps) for seat in seats}, old)


def measured_so_far(state: State) -> dict[int, float] | None:
    """The same at once, from the newest steps, whatever deal they had; None if nobody has shown anything."""
    return _filled({seat.sphere: _pace_s(seat, -1, LAPS) for seat in state.member_seats()}, state.wanted.paces)


def _filled(shown: Mapping[int, float | None], old: Mapping[int, float]) -> dict[int, float] | None:
    """Who has shown nothing counts as it did, else as the usual one; None if nobody has."""
    known = [pace for pace in shown.values() if pace is not None]
    if not known:
        return None
    return {sphere: old.get(sphere, median(known)) if pace is None else pace for sphere, pace in shown.items()}


def _pace_s(seat: Seat, since: int, count: int) -> float | None:
    """The median over the newest steps; three significant digits, since more would tell of nothing."""
    own_s: list[float] = []
    for lap in reversed(seat.account.laps):
        if lap.micro_batches and lap.at[1] > since:
            own_s.append(_own_s(lap.seconds) / lap.micro_batches)
            if len(own_s) == count:
                break
    return _rounded(own_s) if own_s else None


def _own_s(seconds: dict[str, float]) -> float:
    return seconds.get("data", 0.0) + seconds.get("compute", 0.0)


def _rounded(seconds: Sequence[float]) -> float | None:
    value = float(f"{median(seconds):.3g}")
    return value if value > 0 else None
