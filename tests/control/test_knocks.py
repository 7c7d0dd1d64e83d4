"""Who comes in vain too often is not let in for a while: by address, in the kernel."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from control.connections import SILENT_MOST, SILENT_S, Connections
from control.descriptors import caller
from control.knocks import ADDRESSES_MOST, AT_ONCE, BARRED_S, EACH_S, UNKNOWN, Knocks, Shut
from control.porch import Porch

MUCH = int(AT_ONCE)


def test_an_address_that_knocks_too_often_is_barred_for_a_while_and_no_other_is() -> None:
    """At the knock that is too much, once; afterwards it begins anew."""
    knocks = Knocks()
    assert not any(knocks.in_vain("a", 0.0) for _ in range(MUCH))
    assert not knocks.in_vain("b", 0.0) and knocks.shut(0.0) == Shut()
    assert knocks.in_vain("a", 0.0) and not knocks.in_vain("a", 0.0)
    assert knocks.shut(BARRED_S - 0.1) == Shut(frozenset({"a"}))
    assert knocks.shut(BARRED_S) == Shut()
    assert not any(knocks.in_vain("a", BARRED_S) for _ in range(MUCH)) and knocks.in_vain("a", BARRED_S)


def test_who_knocks_seldom_may_for_ever() -> None:
    """A check of a load balancer, or a machine that has the wrong key and tries on."""
    knocks = Knocks()
    assert not any(knocks.in_vain("a", number / EACH_S) for number in range(10 * MUCH))


def test_where_nobody_knows_from_where_they_come_most_newcomers_are_kept_out() -> None:
    knocks = Knocks()
    for _ in range(MUCH + 1):
        knocks.in_vain(UNKNOWN, 0.0)
    assert knocks.shut(0.0) == Shut(thinned=True)


def test_however_many_addresses_there_are_a_bounded_number_is_kept() -> None:
    """And what was counted of those whom nobody could see is."""
    knocks = Knocks()
    for _ in range(MUCH):
        knocks.in_vain(UNKNOWN, 0.0)
    for number in range(3 * ADDRESSES_MOST):
        knocks.in_vain(str(number), 0.0)
    assert len(knocks._buckets) <= ADDRESSES_MOST + 1
    assert knocks.in_vain(UNKNOWN, 0.0)


def test_a_connection_that_ends_before_it_spoke_came_in_vain() -> None:
    """By its own end, by ours, or because what it said counts for nothing; this machine's own are not counted."""
    connections = Connections()
    for descriptor, address in enumerate(("a", "b", "c", None, UNKNOWN)):
        connections.opened(descriptor, 0.0, address)
    assert connections.spoke(0, b"0") and connections.heard == {"a"}
    connections.closed(1)
    connections.closed(3)
    connections.closed(4)
    assert connections.in_vain() == {"b": 1, UNKNOWN: 1}
    assert connections.too_many(SILENT_S) == [2]
    connections.closed(2)
    assert connections.in_vain() == {"c": 1}
    connections.spoke_in_vain(b"0", 3)
    assert connections.in_vain() == {"a": 3}
    connections.closed(0)
    assert connections.in_vain() == {} and connections.address_of == {}


def test_of_too_many_each_came_in_vain() -> None:
    connections = Connections()
    for descriptor in range(SILENT_MOST + 2):
        connections.opened(descriptor, 0.0, "a")
    connections.too_many(0.0)
    assert connections.in_vain() == {"a": 2}


# ------------------------------------------------------------ the kernel's part


class Hall:
    """A listener with a porch, and who comes to it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=500))
        self.porch = stack.enter_context(closing(Porch(self.listener.fileno())))

    def comes_in(self, source: str, within_s: float = 0.2) -> bool:
        guest = self._stack.enter_context(socket.socket())
        guest.bind((source, 0))
        guest.settimeout(within_s)
        try:
            guest.connect(self.listener.getsockname())
        except TimeoutError:
            return False
        return True


@pytest.fixture
def hall() -> Iterator[Hall]:
    if sys.platform != "linux":
        pytest.skip("only Linux filters for a socket")
    with ExitStack() as stack:
        yield Hall(stack)


def test_the_kernel_drops_who_is_barred_until_the_bar_is_lifted(hall: Hall) -> None:
    """No other, and no connection that stands."""
    assert hall.comes_in("127.0.0.2")
    standing, _ = hall.listener.accept()
    with standing:
        hall.porch.shut({"127.0.0.2", "127.0.0.9"}, (), thinned=False)
        assert not hall.comes_in("127.0.0.2") and hall.comes_in("127.0.0.3")
        standing.sendall(b"still here")
        hall.porch.shut((), (), thinned=False)
        assert hall.comes_in("127.0.0.2", 2.0)


def test_the_kernel_lets_in_few_that_are_not_known_and_all_that_are(hall: Hall) -> None:
    """This machine itself always."""
    hall.porch.shut({"127.0.0.4"}, {"127.0.0.2"}, thinned=True)
    for known in ("127.0.0.2", "127.0.0.1"):
        assert all(hall.comes_in(known) for _ in range(20))
    assert not hall.comes_in("127.0.0.4")
    assert sum(hall.comes_in("127.0.0.3", 0.01) for _ in range(200)) < 40


def test_a_caller_is_known_by_its_address_unless_it_is_this_machine(hall: Hall) -> None:
    """Or gone: then nobody knows."""
    assert hall.comes_in("127.0.0.2") and hall.comes_in("127.0.0.1")
    for expected in ("127.0.0.2", None):
        standing, _ = hall.listener.accept()
        with standing:
            assert caller(standing.fileno()) == expected
    assert caller(hall.listener.fileno()) == UNKNOWN
