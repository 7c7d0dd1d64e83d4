"""Clients and the real process: orders that are in force everywhere, requests that act once, the story of a run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import zmq

from control.client import ControlClient
from control.errors import NoAnswer, OrderRefused
from control.process import ControlProcess
from control.protocol import (
    Answer,
    Ask,
    End,
    Event,
)
from control.record import read_record
from control.watchers import AHEAD
from control.wire import decode_at_client, encode
from tests.control.fakes import Spheres, background, begun

pytestmark = pytest.mark.cluster


def test_orders_are_in_force_everywhere_before_the_client_hears_the_version(
    control: ControlProcess, spheres: Spheres
) -> None:
    """Two answers: given, and in force from version 2 on."""
    first, second = begun(spheres, "0", "1")
    with ControlClient(control.address) as client:
        thread, results = background(lambda: client.set_learning_rate(0.25))
        for sphere in (first, second):
            sphere.wait(lambda sphere: len(sphere.orders) == 1)
            assert sphere.orders[0].learning_rate == 0.25
            sphere.row(1)
        for sphere in (first, second):
            sphere.row(2, in_force=1)
        thread.join(5.0)
        assert results == [2]
        assert client.set_learning_rate(0.25) == 2, "already so: nothing to wait for"
        with pytest.raises(OrderRefused, match="above 0"):
            client.set_learning_rate(-1.0)
        assert client.pause(wait=False) is None
        assert client.resume(wait=False) is None
        assert client.status().order == 3


def test_an_order_that_the_end_overtook_is_refused(control: ControlProcess, spheres: Spheres) -> None:
    """Whoever waits hears how the run ended, instead of a time-out."""
    first, second = begun(spheres, "0", "1")
    with ControlClient(control.address) as client:
        thread, results = background(client.pause)
        first.wait(lambda sphere: len(sphere.orders) == 1)
        for sphere in (first, second):
            sphere.closed(1)
        thread.join(5.0)
        assert isinstance(results[0], OrderRefused) and "has ended (completed: " in str(results[0])
        assert results[0].code == "LW511"


def test_the_same_request_acts_once(control: ControlProcess, spheres: Spheres) -> None:
    """Sent again because the answer was late."""
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(control.address)
    for _ in range(3):
        dealer.send(encode(Ask(request="same", what="pause")))
    for _ in range(3):
        assert dealer.poll(5000)
        dealer.recv()
    with ControlClient(control.address) as client:
        assert client.status().order == 1
    dealer.close(0)
    context.term()


def test_the_same_request_acts_once_also_over_a_control_that_was_started_anew(
    control: ControlProcess, spheres: Spheres
) -> None:
    """It is in the ledger with its order."""
    begun(spheres, "0", "1")
    with ControlClient(control.address) as client:
        client.pause(wait=False, request="mine")
        control.process.kill()
        control.begin_again()
        client.pause(wait=False, request="mine")
        client.resume(wait=False, request="other")
        client.pause(wait=False, request="mine")
        assert client.status().order == 2


def test_a_late_order_names_who_does_not_obey_yet(control: ControlProcess, spheres: Spheres) -> None:
    """By path, with what it does: of two spheres one has said so."""
    first, second = begun(spheres, "0", "1")
    with ControlClient(control.address) as client:
        client.pause(wait=False, request="mine")
        first.beat(version=0, in_force=1)
        second.beat(version=0)
        with pytest.raises(
            NoAnswer, match=r"pause is order 1.* not yet obeyed by sphere 1 \(computing at v0\) \[LW513\]"
        ):
            client.pause(timeout_s=0.5, request="mine")


def test_a_stop_is_acted_on_before_a_thousand_questions(control: ControlProcess, spheres: Spheres) -> None:
    """All wait in control's socket, the stop behind them, over the same connection."""
    begun(spheres, "0", "1")
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.SNDHWM, 2_000)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(control.address)
    os.kill(control.pid, signal.SIGSTOP)
    try:
        for number in range(1_000):
            dealer.send(encode(Ask(request=str(number), what="status")))
        dealer.send(encode(Ask(request="stop", what="stop")))
    finally:
        os.kill(control.pid, signal.SIGCONT)
    before = 0
    while True:
        assert dealer.poll(5000)
        answer = decode_at_client(dealer.recv())
        if isinstance(answer, Answer) and answer.request == "stop":
            break
        before += 1
    dealer.close(0)
    context.term()
    assert answer.ok and before <= 512


def test_a_stop_ends_the_run_as_stopped_with_code_0(tmp_path: Path, control: ControlProcess, spheres: Spheres) -> None:
    """All spheres close at the same version; the client hears which."""
    first, second = begun(spheres, "0", "1")
    with ControlClient(control.address) as client:
        thread, results = background(client.stop)
        for sphere in (first, second):
            sphere.wait(lambda sphere: len(sphere.orders) == 1)
            sphere.row(1, in_force=1)
        thread.join(5.0)
        assert results == [1]
    for sphere in (first, second):
        sphere.closed(1, reason="stopped")
    for sphere in (first, second):
        sphere.expect(End)
        sphere.leave()
    assert control.wait(5.0) == 0
    assert read_record(tmp_path / "ledger.db").status == "stopped"


def test_a_watching_client_hears_the_story_to_its_end(control: ControlProcess, spheres: Spheres) -> None:
    """Rows once each, in order; the last event is the end, with the outcome."""
    with ControlClient(control.address) as client:
        story = client.events()
        assert next(story).kind == "state"
        thread, results = background(lambda: list(story))
        first, second = begun(spheres, "0", "1")
        for version in (1, 2):
            for sphere in (first, second):
                sphere.row(version)
        for sphere in (first, second):
            sphere.closed(2)
        for sphere in (first, second):
            sphere.expect(End)
            sphere.leave()
        thread.join(10.0)
        events = results[0]
    assert isinstance(events, list) and all(isinstance(event, Event) for event in events)
    assert [event.row.version for event in events if event.kind == "row"] == [1, 2]
    assert [event.text for event in events if event.kind == "generation"] == [
        "generation (1, 1): roll call of 2",
        "generation (1, 1) begins at version 0",
    ]
    assert events[-1].kind == "end" and events[-1].text == "completed: reached version 2"
    assert events[-1].status.outcome == "completed" and events[-1].status.version == 2


def test_who_follows_the_story_misses_nothing_however_long_it_is(control: ControlProcess, spheres: Spheres) -> None:
    """More lines than are ever under way at once."""
    with ControlClient(control.address) as client:
        story = client.events()
        next(story)
        first, second = begun(spheres, "0", "1")
        seen: list[int] = []
        for version in range(1, AHEAD + 600):
            first.row(version)
            second.row(version)
            while not seen or seen[-1] < version - 100:
                event = next(story)
                assert event.kind != "lost"
                seen += [event.row.version] if event.row is not None else []
                if not seen and version < 100:
                    break
    assert seen == list(range(1, len(seen) + 1)) and len(seen) > AHEAD
