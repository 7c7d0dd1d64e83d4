"""What strangers and liars can do to a control with keys: cost it a line in its log."""

from __future__ import annotations

import os
import random
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import zmq

from control.client import ControlClient
from control.connections import SILENT_MOST
from control.guard import BURST
from control.keyfile import lock
from control.protocol import Ask, Beat, Hello, Phase, Position, Proof, Ready, Row, StoreSet
from control.roles import Role
from control.wire import encode
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


def frames(chance: random.Random, count: int) -> Iterator[bytes]:
    """What spheres say, with bytes changed, cut, doubled and put in between."""
    generation = (1, 1)
    words = [
        encode(Hello(run_id="another", path="0", pid=1, host="here")),
        encode(Proof(fingerprint={"a": "b"}, micro_batches=1, max_steps=1)),
        encode(Beat(generation=generation, number=1, echo=0, phase=Phase.COMPUTING, position=Position())),
        encode(Row(generation=generation, version=1, loss=0.5, seconds={"step": 1.0})),
        encode(Ready(generation=generation, position=Position(), holds_state=True, done=[1, 2])),
        encode(StoreSet(generation=generation, request=1, key="k", value=b"v" * 50)),
        encode(Ask(request="r", what="status")),
    ]
    for _ in range(count):
        frame = bytearray(chance.choice(words))
        for _ in range(chance.choice((1, 1, 2, 5))):
            place = chance.randrange(len(frame)) if frame else 0
            match chance.randrange(4):
                case 0 if frame:
                    frame[place] = chance.randrange(256)
                case 1:
                    del frame[place:]
                case 2:
                    frame[place:place] = chance.randbytes(chance.choice((1, 3, 200)))
                case _:
                    frame += frame[place:]
        yield bytes(frame)


def say_mutated(run: Keyed, count: int) -> None:
    context = zmq.Context()
    liar = context.socket(zmq.DEALER)
    liar.setsockopt(zmq.LINGER, 0)
    lock(liar, run.key("liar"))
    liar.connect(run.address)
    for number, frame in enumerate(frames(random.Random(11), count)):
        liar.send(frame)
        if number % 1000 == 0:
            for sphere in run.computing:
                sphere.beat()
    liar.send(encode(Ask(request="last", what="status")))
    assert liar.poll(5000)
    liar.close(0)
    context.term()
    assert len(run.log) < 40 + count // 1000


def test_mutated_frames_of_an_allowed_sphere_change_nothing(run: Keyed) -> None:
    """It has no seat, so what happens to be a message is not heard either; the log has a line for each kind."""
    say_mutated(run, 4_000)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_many_mutated_frames_change_nothing(run: Keyed) -> None:
    """The same, a million times."""
    say_mutated(run, 1_000_000)


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


def test_a_client_that_asks_too_much_is_answered_as_much_as_it_may(run: Keyed) -> None:
    """The others are answered meanwhile, and the log has a line."""
    context = zmq.Context()
    flood = context.socket(zmq.DEALER)
    lock(flood, run.key("flood", Role.CLIENT))
    flood.connect(run.address)
    try:
        for _ in range(3000):
            flood.send(encode(Ask(request="r", what="status")))
        with ControlClient(run.folder) as client:
            assert client.status().state == "running"
        until(lambda: any("too much:" in line for line in run.log))
        answers = 0
        while flood.poll(1000):
            flood.recv()
            answers += 1
        assert BURST <= answers < 3000
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
