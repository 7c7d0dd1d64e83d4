"""Runs of many orders: what spheres are told of them, and tell, stays a frame; what is left out makes no other deal."""

from __future__ import annotations

import msgspec

from control.events import OrderGiven
from control.plan import PACES_TOLD
from control.protocol import (
    NO_GENERATION,
    ORDERS_MOST,
    Hello,
    Member,
    Memory,
    Orders,
    Position,
    View,
    Wanted,
    without_paces,
)
from control.wire import FROM_CONTROL_BYTES_MOST, MAX_FRAME_BYTES, decode_at_control, decode_at_sphere, encode
from spheres.state import Heard, hear
from tests.control.play import Play

SPHERES = 1_000


def paced(number: int) -> Wanted:
    """An order that deals by other paces than each other one."""
    return Wanted(number=number, paces=dict.fromkeys(range(1, 1 + SPHERES), 0.1 + number / 1000))


def dealt_anew(play: Play, times: int) -> list[Wanted]:
    """So many orders, in force one version after the other."""
    for number in range(1, 1 + times):
        play.happen(OrderGiven(wanted=paced(number), what="deal", request=""))
    play.settle()
    return [paced(number) for number in range(1, 1 + times)]


def test_a_view_tells_all_orders_and_the_newest_paces() -> None:
    """Two hundred deals of a thousand spheres would be 2.6 MB, for each of them."""
    play = Play("0", "1").begin()
    orders = dealt_anew(play, 200)
    play.sent.clear()
    play.lose("1")
    play.wait(play.state.silence_s)
    view = play.told(View)[1]
    assert [order.number for order in view.orders] == [order.number for order in orders]
    assert [order for order in view.orders if order.paces] == orders[-PACES_TOLD:]
    assert len(encode(view)) < MAX_FRAME_BYTES / 8


def test_all_members_of_a_generation_deal_by_the_same_paces() -> None:
    """Who has heard each order when it was given knows after a View what one knows that has come just now."""
    orders = [paced(number) for number in range(1, 20)]
    there = hear(Heard(), Orders(incarnation=1, orders=orders))
    view = View(generation=(1, 2), members=[], orders=without_paces(orders, but=PACES_TOLD))
    assert there.orders == tuple(orders)
    assert hear(there, view).orders == hear(Heard(), view).orders == tuple(view.orders)
    more = hear(hear(there, Orders(incarnation=1, orders=[paced(20)])), view)
    assert more.orders == (*view.orders, paced(20)), "what came after the View was made is kept"


def test_what_a_thousand_spheres_know_of_a_run_with_as_many_orders_as_can_be_is_a_frame() -> None:
    """They tell it to each control that is another process."""
    members = [
        Member(sphere=number, path=f"eu/cluster-{number}/7", address="192.168.100.100", port=32_000, key="k" * 40)
        for number in range(SPHERES)
    ]
    orders = [Wanted(number=number, learning_rate=1 / number, saves=number) for number in range(1, 1 + ORDERS_MOST)]
    memory = Memory(generation=(1, 1), members=members, position=Position(), orders=orders)
    hello = Hello(run_id="run", path="0", pid=1, host="here", memory=memory)
    assert decode_at_control(encode(hello)) == hello


def test_a_sphere_reads_a_view_of_more_spheres_than_control_would_of_a_stranger() -> None:
    view = View(generation=(1, 1), members=[], orders=[paced(number) for number in range(1, 200)])
    assert MAX_FRAME_BYTES < len(encode(view)) < FROM_CONTROL_BYTES_MOST
    assert decode_at_sphere(encode(view)) == view


def test_that_old_paces_are_forgotten_makes_no_other_order() -> None:
    """A sphere that is back is not taken for one that knows the orders of another control."""
    play = Play("0", "1").begin()
    orders = dealt_anew(play, 3)
    memory = Memory(generation=NO_GENERATION, members=[], position=Position(), orders=without_paces(orders))
    seat = play.state.seat_at("0")
    assert seat is not None
    play.lose("0")
    back = msgspec.structs.replace(seat.hello, sphere=seat.sphere, incarnation=play.state.incarnation, memory=memory)
    assert "it knows orders that this control never gave" not in play.knock(back)
    other = msgspec.structs.replace(memory, orders=[Wanted(number=1, learning_rate=0.5)])
    assert "it knows orders that this control never gave" in play.knock(msgspec.structs.replace(back, memory=other))


def test_a_run_takes_so_many_orders_and_a_stop() -> None:
    play = Play("0", "1").begin()
    for number in range(1, 1 + ORDERS_MOST):
        play.happen(OrderGiven(wanted=Wanted(number=number), what="set_learning_rate", request=f"r{number}"))
    assert "[LW518]" in play.order("set_learning_rate", 0.5, request="one more")
    assert not play.state.wanted.stopped
    play.order("stop", request="stop")
    assert play.state.wanted.stopped
