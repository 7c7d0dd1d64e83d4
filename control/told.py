"""What control has said to each sphere, so that a lost message is said again and nothing is said twice at once."""

from __future__ import annotations

from collections.abc import Sequence

from .changed import changed
from .events import Sent
from .protocol import End, Expelled, Go, Orders, SaveOver, Seal, Tick, View
from .state import State, Told


def all_sent(state: State, sent: Sequence[Sent]) -> State:
    """The state after all of these, as if applied one by one; but the seats of all are copied once."""
    seats = dict(state.seats)
    for event in sent:
        seat = seats[event.sphere]
        seats[event.sphere] = changed(seat, told=_told(seat.told, event))
    return changed(state, seats=seats)


def _told(told: Told, event: Sent) -> Told:
    match event.message:
        case View(generation=generation, orders=orders):
            number = max(told.order, orders[-1].number if orders else 0)
            return changed(told, view=generation, view_s=event.at_s, order=number, order_s=event.at_s)
        case Go(generation=generation):
            return changed(told, go=generation, go_s=event.at_s)
        case Orders(orders=orders):
            return changed(told, order=max(told.order, orders[-1].number), order_s=event.at_s)
        case Tick(number=number):
            return changed(told, tick=number, tick_s=event.at_s)
        case Seal(generation=generation, version=version):
            return changed(told, seal=(generation, version), seal_s=event.at_s)
        case SaveOver(generation=generation, version=version):
            return changed(told, save_over=(generation, version))
        case End() | Expelled():
            return changed(told, over=True)
        case _:
            return told
