"""A run that goes on with other processes: what of its past still counts, as one fact in its ledger."""

from __future__ import annotations

import dataclasses

from msgspec.structs import replace

from .config import Settings
from .events import Resumed
from .ledger import Ledger
from .protocol import Wanted
from .recall import recalled
from .state import Order, State

ANEW = "anew"
"""As `Settings.resume`: a lineage of its own begins where the run goes on."""


def resume(ledger: Ledger, settings: Settings) -> None:
    """Write down that the run goes on, on this tree; all who were part of it are dead, by a person's word.

    Before anything else is done with the ledger: its note of the tree is still the one of before. Raises LedgerError.
    """
    state = recalled(ledger, dataclasses.replace(settings, tree=ledger.get("tree") or settings.tree, adopt=False), 0.0)
    founded = ledger.row(0)
    lineage, origin = max((state.lineage, state.origin), ledger.lineage())
    fingerprint = state.fingerprint or state.former or ledger.get("fingerprint") or {}
    ledger.record(
        Resumed(
            paths=settings.paths,
            tree=settings.tree,
            next_sphere=state.next_sphere,
            generation=state.generation,
            founded=state.founded or (founded.digest if founded is not None else None),
            lineage=lineage,
            origin=origin,
            orders=[(order.wanted, order.what, order.version) for order in _orders(ledger, state)],
            settled=max([state.saves.settled, state.wanted.saves]),
            anew=settings.resume == ANEW,
            last=state.saves.last,
            fingerprint=fingerprint,
            at_s=0.0,
        )
    )
    ledger.commit()


def _orders(ledger: Ledger, state: State) -> list[Order]:
    """All orders so far, each in force from some version; at last one that lets the run go on, if one had ended it.

    One process numbers its own (its stop is one) and tells nobody what they were: those hold nothing any more.
    """
    newest = ledger.newest_rows(1)
    top, number = (newest[0].version, newest[0].in_force) if newest else (0, 0)
    at = ledger.obeyed_at()  # one process may have gone on with them meanwhile
    orders = [replace(order, version=at[order.wanted.number]) for order in state.orders]
    while len(orders) < number:
        last = orders[-1].wanted if orders else Wanted()
        own = last.then()
        orders.append(Order(own, "of one process", ledger.first_with(own.number)))
    given = all(order.version is not None for order in orders)
    last = orders[-1].wanted if orders else Wanted()
    if orders and (last.stopped or last.paused or last.terminated or not given):
        goes_on = last.then(stopped=False, paused=False, terminated=[])
        orders.append(Order(goes_on, "go on"))
    return [order if order.version is not None else replace(order, version=top) for order in orders]
