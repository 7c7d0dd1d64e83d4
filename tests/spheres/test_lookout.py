"""Peers that are waited for are looked for: a slow one is left alone, one that no packet reaches is not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from control.protocol import Member
from spheres.larder import Larder
from spheres.lookout import Lookout

SILENCE_S = 0.3


@pytest.fixture
def larder() -> Iterator[Larder]:
    made = Larder()
    yield made
    made.close()


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of one whose network says nothing: connections are taken by the kernel, and nobody greets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def peer(sphere: int, port: int) -> Member:
    return Member(sphere=sphere, path=f"a/{sphere}", port=port)


def asked(lookout: Lookout, waited_s: float, looks: int) -> str:
    """Its answer to somebody who waits, after so many looks at most."""
    began_s = time.monotonic() - waited_s
    for _ in range(looks):
        before = set(threading.enumerate())
        trouble = lookout.trouble(time.monotonic() - began_s)
        if trouble:
            return trouble
        for thread in set(threading.enumerate()) - before:
            thread.join()
    return lookout.trouble(time.monotonic() - began_s)


def test_a_peer_that_can_not_be_reached_is_named(larder: Larder, mute: int) -> None:
    lookout = Lookout([peer(1, larder.port), peer(2, mute)], SILENCE_S)
    assert asked(lookout, SILENCE_S, 1) == "sphere 2 (a/2) can't be reached"
    assert lookout.gone == [2]


def test_a_peer_that_is_slow_is_waited_for(larder: Larder) -> None:
    """However long: its larder answers."""
    assert asked(Lookout([peer(1, larder.port)], SILENCE_S), 1000.0, 3) == ""


def test_nobody_is_looked_for_before_silence_s(mute: int) -> None:
    """A step waits at every sum; that is no reason to ask around."""
    lookout = Lookout([peer(2, mute)], SILENCE_S)
    assert asked(lookout, 0.0, 1) == "" and lookout.gone == []


def test_what_was_found_in_an_earlier_wait_counts_no_more(mute: int) -> None:
    """What that one waited for came in the end."""
    lookout = Lookout([peer(2, mute)], SILENCE_S)
    assert asked(lookout, SILENCE_S, 1)
    assert lookout.trouble(SILENCE_S / 10) == ""
