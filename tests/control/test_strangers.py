"""What strangers and liars can do to a control with keys: cost it a line in its log."""

from __future__ import annotations

import os
import random
import resource
import socket
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import zmq

from control.client import ControlClient
from control.complaints import EVERY_S
from control.connections import SILENT_MOST
from control.entrance import Brief
from control.errors import WireError
from control.guard import BURST
from control.keyfile import lock
from control.knocks import AT_ONCE
from control.protocol import Ask
from control.roles import Role
from control.wire import decode_at_control, encode
from scripts.benchmarks.attacker import mutated
from tests.control.fakes import begun, until
from tests.control.keyed import MB, Keyed

pytestmark = pytest.mark.cluster

ROOM = 200
"""Descriptors that the test and control have for other things."""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Keyed]:
    """Two spheres compute; when the test is over they still do."""
    keyed = Keyed(tmp_path)
    try:
        keyed.computing = begun(keyed.spheres, "0", "1")
        keyed.rss_before = keyed.rss
        yield keyed
        for sphere in keyed.computing:
            sphere.row(1)
        with ControlClient(tmp_path) as client:
            until(lambda: client.status().version == 1)
            assert (client.status().state, len(client.status().spheres)) == ("running", 2)
        assert keyed.rss < keyed.rss_before + 20 * MB
    finally:
        keyed.close()


def test_random_bytes_on_the_port_cost_their_connections(run: Keyed) -> None:
    """1 MB, over many connections: in the greeting, in the handshake, all at once and in pieces."""
    chance = random.Random(7)
    sent = 0
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + bytes(32)
    while sent < MB:
        stranger = run.knock()
        data = chance.randbytes(chance.choice((1, 10, 100, 10_000, 100_000)))
        try:
            stranger.sendall(greeting[: chance.choice((0, 12, 64))] + data)
        except OSError:
            pass  # it has hung up already
        sent += len(data)
        stranger.close()
    until(lambda: any("no key:" in line for line in run.log))
    assert len(run.log) < 30


def say_mutated(run: Keyed, count: int) -> None:
    context = zmq.Context()
    liar = context.socket(zmq.DEALER)
    liar.setsockopt(zmq.LINGER, 0)
    liar.setsockopt(zmq.RECONNECT_IVL, 1)
    lock(liar, run.key("liar"))
    liar.connect(run.address)
    began = time.monotonic()
    with run.beating():
        for frame in islice(mutated(random.Random(11)), count):
            liar.send(frame)
    liar.close(0)
    context.term()
    with ControlClient(run.folder) as client:
        assert client.status().state == "running"
    assert sum("WARNING" in line for line in run.log) <= 5 * (1 + (time.monotonic() - began) / EVERY_S)


def test_a_mutated_frame_is_a_message_or_refused_with_a_sentence() -> None:
    """Nothing else comes of it."""
    read = 0
    for frame in islice(mutated(random.Random(11)), 100_000):
        try:
            decode_at_control(frame)
            read += 1
        except WireError:
            pass
    assert 1_000 < read < 20_000


def test_mutated_frames_of_an_allowed_sphere_change_nothing(run: Keyed) -> None:
    """It has no seat, so what happens to be a message is not heard either; the log has a line for each kind."""
    say_mutated(run, 4_000)


def test_who_floods_control_with_what_counts_for_nothing_is_cut_off(run: Keyed) -> None:
    """Again and again, with one line in ten seconds; what it sent and nobody has heard yet is gone with it."""
    say_mutated(run, 100_000)
    assert any("in vain:" in line for line in run.log)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_many_mutated_frames_change_nothing(run: Keyed) -> None:
    """The same, a million times."""
    say_mutated(run, 1_000_000)
    print(f"memory {(run.rss - run.rss_before) / MB:+.1f} MB, {len(run.log)} lines")


def test_a_thousand_connections_that_say_nothing_cost_no_more_than_some(run: Keyed) -> None:
    """The oldest are closed; who has something to say gets through all the while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1000 + 2 * ROOM)), hard))
    strangers: list[socket.socket] = []
    try:
        before = psutil.Process(run.process.pid).num_fds()
        for number in range(1000):
            strangers.append(run.knock())
            if number % 250 == 249:
                with ControlClient(run.folder) as client:
                    assert client.status().state == "running"
        until(lambda: psutil.Process(run.process.pid).num_fds() <= before + SILENT_MOST)
        until(lambda: any("silent:" in line for line in run.log))
        assert run.rss < run.rss_before + 20 * MB
        assert sum("silent:" in line for line in run.log) <= 2
    finally:
        for stranger in strangers:
            stranger.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("role", "question"),
    [(Role.CLIENT, Ask(request="r", what="status")), (Role.SPHERE, Brief())],
    ids=["client", "sphere"],
)
def test_who_asks_too_much_is_answered_as_much_as_it_may(run: Keyed, role: Role, question: Ask | Brief) -> None:
    """The others are answered meanwhile, and the log has a line."""
    context = zmq.Context()
    flood = context.socket(zmq.DEALER)
    lock(flood, run.key("flood", role))
    flood.connect(run.address)
    try:
        for _ in range(1200):
            flood.send(encode(question))
        with ControlClient(run.folder) as client:
            assert client.status().state == "running"
        until(lambda: any("too much:" in line for line in run.log))
        answers = 0
        while flood.poll(1000):
            flood.recv()
            answers += 1
        assert BURST <= answers < 1200
    finally:
        flood.close(0)
        context.term()


def test_a_frame_that_is_too_large_ends_its_connection(run: Keyed) -> None:
    """Nothing of it is kept."""
    context = zmq.Context()
    liar = context.socket(zmq.DEALER)
    lock(liar, run.key("liar"))
    monitor = liar.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    liar.connect(run.address)
    try:
        liar.send(os.urandom(3 * MB))
        assert monitor.poll(10_000)
    finally:
        liar.disable_monitor()
        monitor.close(0)
        liar.close(0)
        context.term()


def test_from_an_address_that_comes_in_vain_too_often_nobody_is_let_in(run: Keyed) -> None:
    """Its packets get no answer any more, those of others do; who speaks already goes on (the fixture looks)."""
    with run.beating(), ControlClient(run.folder) as client:
        # So many more than may come at once that they are too many on a machine that is slow to look, too.
        count = 3 * int(AT_ONCE)
        before = psutil.Process(run.process.pid).num_fds()
        strangers = [run.knock("127.0.0.2") for _ in range(count)]
        until(lambda: psutil.Process(run.process.pid).num_fds() >= before + count)
        assert client.status().state == "running"  # so it has looked at them, and knows where they are from
        for stranger in strangers:
            stranger.close()
        until(lambda: any("too often:" in line and "from 127.0.0.2" in line for line in run.log))
        with pytest.raises(TimeoutError):
            run.knock("127.0.0.2", timeout_s=0.5)
        run.knock("127.0.0.3").close()


def test_of_a_flood_of_those_who_are_gone_at_once_most_are_not_let_in(run: Keyed) -> None:
    """Nobody knows where they came from. This machine itself is let in all the while."""
    with run.beating():
        with pytest.raises(TimeoutError):
            for _ in range(100 * int(AT_ONCE)):
                run.knock("127.0.0.2", timeout_s=0.5).close()
        until(lambda: any("too often:" in line for line in run.log))
        for _ in range(5):
            with ControlClient(run.folder) as client:
                assert client.status().state == "running"
        assert sum("too often:" in line for line in run.log) == 1


def test_one_connection_speaks_for_one_sphere(run: Keyed) -> None:
    """Else one machine could fill the tree with as many as it has breath for."""
    many = run.computing[0]
    many.path = "2"
    many.hello()
    assert "sphere 0 speaks over this connection" in many.refused()
