"""Level-triggered: what is missing is said again, what is known is not said twice."""

from __future__ import annotations

import msgspec

from control.plan import AGAIN_S, tick_s
from control.protocol import Go, Orders, Phase, Tick, View
from control.wire import encode
from tests.control.play import Play


def test_a_plan_that_was_done_has_nothing_left() -> None:
    """Settling twice sends nothing more."""
    play = Play("0", "1").begin()
    play.settle()
    assert play.sent == []


def test_a_lost_view_is_said_again() -> None:
    """A heartbeat that still speaks for no generation shows that it did not arrive."""
    play = Play("0", "1").gather()
    play.ready("0")
    play.sent.clear()
    play.beat("1", Phase.ADMITTED, generation=(0, 0))
    assert not play.told(View)
    play.now_s += AGAIN_S + 0.01
    play.beat("1", Phase.ADMITTED, generation=(0, 0))
    assert set(play.told(View)) == {2}


def test_a_lost_go_is_said_again_to_who_is_still_frozen() -> None:
    """And not to who computes."""
    play = Play("0", "1").begin()
    play.now_s += AGAIN_S + 0.01
    play.beat("0", Phase.FROZEN)
    play.beat("1", Phase.COMPUTING)
    assert set(play.told(Go)) == {1}


def test_orders_go_out_in_number_order_without_a_gap_and_once() -> None:
    """Each sphere hears each number, in order."""
    play = Play("0", "1").begin()
    for what in ("pause", "resume", "pause"):
        play.order(what)
    for sphere in (1, 2):
        orders = [message for who, message in play.sent if who == sphere and isinstance(message, Orders)]
        assert [order.number for message in orders for order in message.orders] == [1, 2, 3]


def test_a_lost_order_is_said_again_from_the_first_unseen() -> None:
    """`seen` in the heartbeat tells which."""
    play = Play("0", "1").begin()
    play.order("pause")
    play.order("resume")
    play.beat("0", seen=1)
    play.beat("1", seen=2)
    play.sent.clear()
    play.wait(AGAIN_S + 0.01)
    assert [[order.number for order in message.orders] for message in play.told(Orders).values()] == [[2]]
    assert set(play.told(Orders)) == {1}


def test_no_order_is_sent_before_the_view_that_brings_the_ones_before_it() -> None:
    """So a sphere's numbers have no gap."""
    play = Play("0", "1")
    play.hello("0")
    play.order("pause")
    assert not play.told(Orders)
    play.hello("1")
    for path in ("0", "1"):
        play.prove(path)
    assert [order.number for order in play.told(View)[2].orders] == [1]
    assert not play.told(Orders)
    play.order("resume")
    assert [order.number for order in play.told(Orders)[2].orders] == [2]


def test_ticks_come_at_their_pace_and_at_once_to_one_that_is_back() -> None:
    """Several in a silence, and one word for all: what is told to many is encoded once."""
    play = Play("0", "1").begin()
    play.sent.clear()
    play.wait(tick_s(5.0) - 0.01)
    assert not [message for _, message in play.sent if isinstance(message, Tick)]
    play.wait(0.02)
    assert play.told(Tick)[1] is play.told(Tick)[2]
    assert play.told(Tick)[1].incarnation == 1
    play.lose("0")
    play.sent.clear()
    play.hello("0", pid=100, sphere=1)
    play.wait(0.0)
    assert Tick in map(type, (message for sphere, message in play.sent if sphere == 1))


def test_idle_traffic_to_a_sphere_stays_below_one_kilobyte_a_second() -> None:
    """Ticks are all that control says to a run that needs nothing."""
    play = Play("0", "1").begin()
    size = 0
    for _ in range(100):
        play.beat("0", seen=0)
        play.beat("1", seen=0)
        play.wait(0.1)
    size = sum(len(encode(message)) for sphere, message in play.sent if sphere == 1)
    assert 0 < size / 10 < 1000


def test_rows_held_stops_below_a_gap() -> None:
    """What is acknowledged need not be repeated; what is missing must be."""
    play = Play("0", "1").begin()
    play.row("0", 1)
    play.row("0", 3)
    assert play.state.versions.held == 1
    play.row("1", 2)
    assert play.state.versions.held == 3


def test_messages_of_a_plan_survive_the_wire() -> None:
    """Each one encodes: no enum or tuple that MessagePack can't say."""
    play = Play("0", "1").gather()
    for path in ("0", "1"):
        play.ready(path)
    for _, message in play.sent:
        assert msgspec.msgpack.decode(encode(message), type=type(message)) == message
