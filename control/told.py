"""What control has said to each sphere, so that a lost message is said again and nothing is said twice at once."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from . import newcomers
from .events import Sent
from .protocol import Dial, End, Expelled, Go, Orders, Refused, SaveOver, Seal, Tick, View
from .state import Seat, State, Told


def all_sent(state: State, sent: Sequence[Sent]) -> State:
    """The state after all of these, as if applied one by one; but copied once."""
    seats: dict[int, Seat] = {}
    for event in sent:
        seat = seats.get(event.sphere) or state.seats[event.sphere]
        seats[event.sphere] = replace(seat, told=_told(seat.told, event))
        if isinstance(event.message, Dial):
            state = replace(state, reach=newcomers.asked(state, event.sphere, event.message, event.at_s))
    return replace(state, seats=state.seats.having(seats))


def _told(told: Told, event: Sent) -> Told:
    match event.message:
        case View(generation=generation, orders=orders):
            number = max(told.order, orders[-1].number if orders else 0)
            return replace(told, view=generation, view_s=event.at_s, order=number, order_s=event.at_s)
        case Go(generation=generation):
            return replace(told, go=generation, go_s=event.at_s)
        case Orders(orders=orders):
            return replace(told, order=max(told.order, orders[-1].number), order_s=event.at_s)
        case Tick():
            return replace(told, tick_s=event.at_s)
        case Seal(generation=generation, version=version):
            return replace(told, seal=(generation, version), seal_s=event.at_s)
        case SaveOver(generation=generation, version=version):
            return replace(told, save_over=(generation, version))
        case End() | Expelled() | Refused():
            return replace(told, over=True)
        case _:
            return told
