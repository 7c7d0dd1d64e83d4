"""What the kernel says of a connection whose descriptor is somebody else's."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from control.descriptors import caller, shut, silent_s


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of one TCP connection."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        one = stack.enter_context(socket.create_connection(listener.getsockname()))
        other, _ = listener.accept()
        yield one, stack.enter_context(other)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel says it on Linux alone")
def test_a_connection_is_silent_since_the_last_byte_was_received_read_or_not(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """What it sent itself, and what the other end acknowledged of that, counts for nothing."""
    one, other = pair
    one.sendall(b"x")
    began_s = time.monotonic()
    while silent_s(other.fileno()) < 0.2:
        assert time.monotonic() < began_s + 5.0
        other.sendall(b"y")
    assert time.monotonic() >= began_s + 0.15
    one.sendall(b"x")
    while silent_s(other.fileno()) >= 0.2:
        assert time.monotonic() < began_s + 5.0


def test_nothing_is_said_of_what_is_closed_or_no_connection(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """Nor is it an error: the number may be another's by now. Nothing is left open."""
    descriptor = pair[0].fileno()
    pair[0].close()
    with open(tmp_path / "file", "wb") as file:
        before = psutil.Process().num_fds()
        for number in (descriptor, file.fileno()):
            assert (silent_s(number), caller(number)) == (0.0, "")
            shut(number)
        assert psutil.Process().num_fds() == before
        file.write(b"still open")


def test_a_connection_that_is_shut_ends_for_both_sides(pair: tuple[socket.socket, socket.socket]) -> None:
    """And stays open for its owner, who closes it."""
    one, other = pair
    shut(one.fileno())
    assert other.recv(1) == b""
    assert one.recv(1) == b""
    assert one.fileno() >= 0
