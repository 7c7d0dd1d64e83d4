"""A control with keys, over real sockets: who is heard, as whom, and who is thrown out."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from control.client import ControlClient
from control.errors import KeyRefused, OrderRefused
from control.keyfile import Pair, lock
from control.protocol import Answer, Ask, End, Expelled, Failed, Row, View, Welcome
from control.roles import Role
from control.wire import decode_at_client, encode
from tests.control.fakes import FakeSphere, begun, until
from tests.control.keyed import Keyed, monitored

pytestmark = pytest.mark.cluster

KEYLESS = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(16) + bytes(32)
"""The greeting of ZMTP 3.1, with the mechanism NULL."""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Keyed]:
    keyed = Keyed(tmp_path)
    yield keyed
    keyed.close()


def asked(sphere: FakeSphere, what: str) -> Answer:
    """What control answers to a question, asked over this connection."""
    sphere.say(Ask(request="r", what=what))
    assert sphere.socket.poll(5000)
    answer = decode_at_client(sphere.socket.recv())
    assert isinstance(answer, Answer)
    return answer


def test_a_run_with_keys_goes_as_one_without(tmp_path: Path, run: Keyed) -> None:
    """From Hello to End; who can read the folder needs to name no key, and control.json names control's."""
    first, second = begun(run.spheres, "0", "1")
    with ControlClient(tmp_path) as client:
        assert client.status().state == "running"
        for sphere in (first, second):
            sphere.row(1)
        until(lambda: client.status().version == 1)
        assert client.stop(wait=False) is None
    for sphere in (first, second):
        sphere.closed(1, reason="stopped")
    assert {first.expect(End).status, second.expect(End).status} == {"stopped"}
    assert run.keys.pair.public in (tmp_path / "control.json").read_text()


def test_who_shows_no_key_is_told_that_one_is_wanted_and_reaches_nothing(run: Keyed) -> None:
    """A client by a sentence, soon; a sphere's words never arrive. Control writes one line: of one that stays, for who
    has gone again before control has read its greeting is not known to have spoken without a key."""
    silent = run.sphere("0", None)
    silent.hello()
    began = time.monotonic()
    with ControlClient(run.address) as client, pytest.raises(KeyRefused, match="it wants a key"):
        client.status()
    assert time.monotonic() - began < 4.5
    with ControlClient(run.folder) as client:
        assert client.status().spheres == []
    assert silent.expect_no(Welcome)
    host, port = run.address.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as stranger:
        stranger.sendall(KEYLESS)
        until(lambda: any("no key:" in line for line in run.log))
    assert sum("no key:" in line for line in run.log) == 1


def test_a_key_that_is_not_allowed_is_told_so_at_once(run: Keyed) -> None:
    """One that nobody ever allowed; control writes one line."""
    pair = Pair.draw()
    key = msgspec.structs.replace(run.own("client"), public=pair.public, secret=pair.secret)
    key.write(run.folder / "odd.key")
    for _ in range(3):
        with ControlClient(run.address, key=run.folder / "odd.key") as client:
            began = time.monotonic()
            with pytest.raises(KeyRefused, match="is not allowed there"):
                client.status()
            assert time.monotonic() - began < 2.5
    until(lambda: any("wrong key:" in line for line in run.log))
    assert sum("wrong key:" in line for line in run.log) == 1


def test_a_key_for_another_control_is_told_so(run: Keyed, tmp_path: Path) -> None:
    """Who listens there can't prove that it is the control which the key is for."""
    key = msgspec.structs.replace(run.own("client"), control=Pair.draw().public)
    key.write(tmp_path / "other.key")
    with ControlClient(run.address, key=tmp_path / "other.key") as client:
        with pytest.raises(KeyRefused, match="it is not the control that this key is for"):
            client.status()


def test_a_revoked_machine_is_out_within_two_seconds_and_the_others_go_on(run: Keyed) -> None:
    """Its sphere hears so, its connection is cut, it can't connect again, and a new roll call is without it."""
    first, second = run.sphere("0", run.own()), run.sphere("1", run.key("lab"))
    begun(lambda *paths: [first, second], "0", "1")
    with monitored(second) as comes:
        began = time.monotonic()
        run.keys.revoke("lab")
        assert "whose key was revoked [LW542]" in second.expect(Expelled).text
        assert comes(zmq.EVENT_DISCONNECTED, 2.0)
        assert time.monotonic() - began < 2.0
        assert comes(zmq.EVENT_HANDSHAKE_FAILED_AUTH, 5.0)
    assert [member.path for member in first.expect(View).members] == ["0"]
    with ControlClient(run.folder) as client:
        assert client.status().state == "running"


def test_a_revoked_client_is_cut_off_while_it_watches(run: Keyed) -> None:
    """It hears no more of the run, and is told why."""
    run.key("ann", Role.CLIENT)
    with ControlClient(run.address, timeout_s=2.0, key=run.folder / "ann.key") as client:
        story = client.events()
        assert next(story).kind == "state"
        run.keys.revoke("ann")
        with pytest.raises(KeyRefused, match="is not allowed there"):
            while True:
                next(story)


def test_what_a_revoked_machine_still_says_is_not_heard(run: Keyed) -> None:
    """Also by a control that was not there when it was revoked: it is thrown out from the ledger's seats."""
    first, second = run.sphere("0", run.own()), run.sphere("1", run.key("lab"))
    begun(lambda *paths: [first, second], "0", "1")
    with monitored(second) as comes:
        run.process.process.kill()
        run.process.process.wait()
        run.keys.revoke("lab")
        second.say(Failed(text="the run must end of this [LW101]"))  # it lies there until control is back
        run.process.begin_again()
        assert comes(zmq.EVENT_HANDSHAKE_FAILED_AUTH, 10.0)
    with ControlClient(run.folder) as client:
        until(lambda: any("whose key was revoked" in line for line in run.log))
        assert client.status().state != "stopping"


def test_a_routing_id_can_not_be_taken_over(run: Keyed) -> None:
    """Whoever asks for that of another connection is not heard; the other one is, as before."""
    context = zmq.Context()
    keys = (run.key("a", Role.CLIENT), run.key("b", Role.CLIENT))
    owner, thief = sockets = [context.socket(zmq.DEALER) for _ in keys]
    try:
        for dealer, key in zip(sockets, keys, strict=True):
            dealer.setsockopt(zmq.ROUTING_ID, b"the same")
            lock(dealer, key)
            dealer.connect(run.address)
            dealer.send(encode(Ask(request="first", what="tree")))
            assert bool(dealer.poll(5000 if dealer is owner else 500)) == (dealer is owner)
        owner.recv()
        owner.send(encode(Ask(request="second", what="tree")))
        assert owner.poll(5000)
        answer = decode_at_client(owner.recv())
        assert isinstance(answer, Answer) and answer.request == "second"
        assert not thief.poll(300)
    finally:
        for dealer in sockets:
            dealer.close(0)
        context.term()


def test_another_machines_sphere_can_not_take_a_seat(run: Keyed) -> None:
    """Neither by the same process's name and number, nor as its successor; the one that sits goes on."""
    first, second = begun(run.spheres, "0", "1")
    for fields in ({}, {"sphere": 1}, {"pid": 1, "former": 7}):
        thief = run.sphere("0", run.own() if not fields else run.key(f"b{len(fields)}{fields.get('pid', 0)}"))
        if not fields:
            thief.hello(nonce="other")  # its own machine's, but not the same process
            assert "the path is taken" in thief.refused()
        else:
            thief.hello(**fields)
            assert "path is taken" in thief.refused()
    first.row(1)
    second.row(1)
    with ControlClient(run.folder) as client:
        until(lambda: client.status().version == 1)


def test_a_sphere_comes_back_over_another_connection_by_its_nonce(run: Keyed) -> None:
    """Though the former one still stands: control gives each a name of its own, so the name can't tell."""
    first, _ = [run.sphere(path, run.own()) for path in ("0", "1")]
    first.hello(nonce="n")
    number = first.expect(Welcome).sphere
    back = run.sphere("0", run.own())
    back.hello(nonce="n", sphere=number)
    assert back.expect(Welcome).sphere == number


def test_a_sphere_gives_no_orders_and_a_client_reports_nothing(run: Keyed) -> None:
    """Each is answered or not heard, by what its key is for, whatever it says."""
    first, _ = begun(run.spheres, "0", "1")
    orders = run.sphere("0", run.key("lab"))
    answer = asked(orders, "stop")
    assert not answer.ok and "role sphere may not ask for 'stop' [LW543]" in answer.text
    reports = run.sphere("2", run.key("ann", Role.CLIENT))
    reports.hello()
    reports.say(Row(generation=first.generation, version=9, check=1))
    assert asked(reports, "status").ok
    with ControlClient(run.folder) as client:
        status = client.status()
        assert (status.state, status.version, len(status.spheres)) == ("running", 0, 2)


def test_a_watcher_looks_and_changes_nothing(run: Keyed) -> None:
    """Status and story, but no order."""
    run.key("eve", Role.WATCHER)
    with ControlClient(run.address, key=run.folder / "eve.key") as client:
        assert client.status().state == "initializing"
        assert "0" in client.tree()
        with pytest.raises(OrderRefused, match="role watcher may not ask for 'stop'"):
            client.stop(wait=False)
        assert client.status().state == "initializing"


def test_a_machine_that_is_allowed_while_control_runs_can_come_at_once(run: Keyed) -> None:
    """Nothing has to be told to control: it looks when it meets a key that it doesn't know."""
    for number in range(5):
        sphere = run.sphere("0", run.key(f"late-{number}"))
        sphere.hello(pid=1 + number)
        assert sphere.expect(Welcome) if number == 0 else "path is taken" in sphere.refused()
