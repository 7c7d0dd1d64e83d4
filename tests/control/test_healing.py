"""The real process heals a run of fakes: successors, its own restart, a lost ledger, a former control that wakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.client import ControlClient
from control.process import ControlProcess
from control.protocol import End, Expelled, How, Member, Memory, Phase, Position, View, Wanted, Welcome
from control.record import read_record
from control.server import FENCED
from control.state import UNHEARD_OF
from tests.control.fakes import FakeSphere, Spheres, begun, until

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
SILENCE_S = 0.5


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlProcess]:
    """A control of two spheres that notices soon."""
    with ControlProcess(tmp_path, run_id="run", tree="2", silence_s=SILENCE_S) as process:
        yield process


def lose_ledger(control: ControlProcess, folder: Path) -> None:
    """Control dies, and its disk with it."""
    control.process.kill()
    control.process.wait()
    for file in folder.glob("ledger.db*"):
        file.unlink()


def end_of(*group: FakeSphere, version: int, reason: str = "completed") -> End:
    """All close; what each hears."""
    for sphere in group:
        sphere.closed(version, reason=reason)
    ends = [sphere.expect(End) for sphere in group]
    for sphere in group:
        sphere.leave()
    return ends[0]


def test_a_sphere_that_dies_is_replaced_and_the_run_completes(
    tmp_path: Path, control: ControlProcess, spheres: Spheres
) -> None:
    """The survivor goes on alone at once; the successor gets an id of its own, and the state from the survivor."""
    first, second = begun(spheres, "0", "1")
    for sphere in (first, second):
        sphere.row(1)
    first.beat(Phase.FROZEN, version=1, failed_in=first.generation)
    second.leave()
    first.ready(digest=None, version=1, done=[0, 1])
    go = first.go()
    assert (go.how, go.keep, go.position) == (How.HERE, True, Position(version=1))
    assert go.deal == {1: [2, 3, 4, 5, 6, 7]}
    first.beat(version=1)
    (third,) = spheres("1")
    third.hello(pid=12345, former=os.getpid())
    assert third.expect(Welcome).sphere == 3
    third.prove()
    third.beat(Phase.ADMITTED)
    first.expect(View)
    first.ready_now(digest=None, version=1)
    third.ready(digest=None, holds_state=False)
    go = third.go()
    assert (go.how, go.donor, go.position) == (How.FETCH, 1, Position(version=1))
    assert end_of(first, third, version=3) == End(status="completed", reason="reached version 3")
    assert control.wait(5.0) == 0
    record = read_record(tmp_path / "ledger.db")
    assert record.status == "completed"
    assert [(each.members, each.begun_at_version) for each in record.generations] == [
        (["0", "1"], 0),
        (["0"], 1),
        (["0", "1"], 1),
    ]


def test_a_sphere_that_was_stopped_is_lost_and_the_others_go_on(control: ControlProcess) -> None:
    """Its sockets stand: its connection is closed, long before it would be thrown out for what it does not say."""
    script = (
        "import sys\n"
        "from tests.control.fakes import FakeSphere\n"
        "sphere = FakeSphere(sys.argv[1], '0')\n"
        "sphere.join()\n"
        "sphere.ready()\n"
        "sphere.go()\n"
        "print('here', flush=True)\n"
        "sphere.expect(int)\n"
    )
    command = [sys.executable, "-c", script, control.address]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    other = FakeSphere(control.address, "1")
    try:
        other.join()
        other.ready()
        other.go()
        assert child.stdout is not None and child.stdout.readline() == b"here\n"
        child.send_signal(signal.SIGSTOP)
        views: list[int] = []
        while not views:
            other.beat()
            other.wait(lambda sphere: sphere.generation > (1, 1) or sphere.ticks > 0)
            other.ticks = 0
            views = [1] if other.generation > (1, 1) else []
        with ControlClient(control.address) as client:
            assert client.status().generation == (1, 2)
        assert "lost its connection" in control.log.read_text()
        assert "thrown out" not in control.log.read_text()
    finally:
        other.leave()
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def back(control: ControlProcess, sphere: FakeSphere, number: int, **fields: Any) -> FakeSphere:
    """The same process on a new connection, as after the death of control."""
    sphere.leave()
    again = FakeSphere(control.address, sphere.path)
    again.generation, again.number, again.orders = sphere.generation, sphere.number, sphere.orders
    again.hello(sphere=number, **fields)
    return again


def test_a_control_that_was_killed_comes_back_at_its_address_and_adopts_what_runs(
    tmp_path: Path, control: ControlProcess, spheres: Spheres
) -> None:
    """The tree goes on in its generation; rows made meanwhile are told; the metrics have each version once."""
    first, second = begun(spheres, "0", "1")
    first.row(1)
    with ControlClient(control.address) as client:
        until(lambda: client.status().version == 1)
    address = control.address
    control.process.kill()
    control.begin_again()
    until(lambda: control.is_bound)
    assert control.address == address
    group = [back(control, first, 1, incarnation=1), back(control, second, 2, incarnation=1)]
    for sphere in group:
        assert sphere.expect(Welcome).incarnation == 2
        sphere.prove()
        sphere.row(2)
        sphere.beat(version=2)
    with ControlClient(control.address) as client:
        until(lambda: client.status().version == 2)
        assert client.status().generation == (1, 1)
        assert client.status().state == "running"
    assert end_of(*group, version=3).status == "completed"
    assert control.wait(5.0) == 0
    record = read_record(tmp_path / "ledger.db")
    assert (record.status, record.incarnation, len(record.generations)) == ("completed", 2, 1)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_run_that_ended_before_control_died_is_ended_by_its_successor(
    control: ControlProcess, spheres: Spheres
) -> None:
    """Whoever has not heard of the end hears it; nothing is begun."""
    first, second = begun(spheres, "0", "1")
    first.closed(3)
    second.closed(3)
    first.expect(End)
    control.process.kill()
    control.begin_again()
    until(lambda: control.is_bound)
    again = back(control, second, 2, incarnation=1)
    assert again.expect(End) == End(status="completed", reason="reached version 3")
    again.leave()
    assert control.wait(10.0) == 0


@pytest.mark.parametrize("by", ["hello", "beat"])
def test_a_control_that_hears_of_a_later_one_leaves_with_code_3_and_tells_nobody_anything(
    tmp_path: Path, control: ControlProcess, spheres: Spheres, by: str
) -> None:
    """It was stopped, or its ledger is a copy: another control acts for the run."""
    first, second = begun(spheres, "0", "1")
    if by == "hello":
        (other,) = spheres("1")
        other.hello(pid=77, sphere=2, incarnation=2)
    else:
        second.beat(incarnation=2)
    assert control.wait(5.0) == FENCED == 3
    assert first.expect_no(End, Expelled, View)
    assert "number 2 of this run, this one is number 1: it acts no more" in (tmp_path / "control.log").read_text()
    assert read_record(tmp_path / "ledger.db").status == "unfinished"


def remembered(sphere: FakeSphere) -> Memory:
    members = [Member(sphere=1, path="0"), Member(sphere=2, path="1")]
    orders = [Wanted(number=1, learning_rate=0.5)]
    return Memory(generation=sphere.generation, members=members, position=Position(), orders=orders)


def test_a_lost_ledger_is_refused_without_a_persons_word(
    tmp_path: Path, control: ControlProcess, spheres: Spheres
) -> None:
    """Else the run would begin a second time beside a tree that is training."""
    _, second = begun(spheres, "0", "1")
    control.process.kill()
    control.process.wait()
    (tmp_path / "ledger.db").unlink()
    control.begin_again()
    until(lambda: control.is_bound)
    again = back(control, second, 2, incarnation=1, memory=remembered(second))
    assert control.wait(5.0) == FENCED
    assert "--adopt" in (tmp_path / "control.log").read_text()
    again.leave()


def test_a_lost_ledger_is_made_again_from_what_the_spheres_know(
    tmp_path: Path, control: ControlProcess, spheres: Spheres
) -> None:
    """--adopt: the generation goes on, with the orders; and that control's successor needs no such word any more."""
    first, second = begun(spheres, "0", "1")
    lose_ledger(control, tmp_path)
    group, memory = [first, second], remembered(first)
    heard = 1
    for adopt, incarnation in ((True, 2 + UNHEARD_OF), (False, 3 + UNHEARD_OF)):
        control.begin_again(adopt=adopt)
        until(lambda: control.is_bound)
        group = [
            back(control, sphere, number, incarnation=heard, memory=memory) for number, sphere in enumerate(group, 1)
        ]
        heard = incarnation
        for sphere in group:
            assert sphere.expect(Welcome).incarnation == incarnation
            sphere.prove()
            sphere.beat(version=1)
        with ControlClient(control.address) as client:
            until(lambda: client.status().state == "running" and len(client.status().spheres) == 2)
            assert client.status().generation == (1, 1)
            assert client.status().order == 1
        control.process.kill() if adopt else None
    assert end_of(*group, version=3).status == "completed"
    assert control.wait(5.0) == 0


def test_a_stop_that_comes_while_a_run_is_taken_over_is_given_once_the_run_is_known(
    tmp_path: Path, control: ControlProcess, spheres: Spheres
) -> None:
    """Its number is the next one after all that the spheres remember."""
    first, second = begun(spheres, "0", "1")
    lose_ledger(control, tmp_path)
    memory = remembered(first)
    control.begin_again(adopt=True)
    until(lambda: control.is_bound)
    control.process.send_signal(signal.SIGTERM)
    group = [
        back(control, sphere, number, incarnation=1, memory=memory) for number, sphere in enumerate([first, second], 1)
    ]
    for sphere in group:
        sphere.expect(Welcome)
        sphere.prove()
        sphere.beat(version=1)
    for sphere in group:
        sphere.wait(lambda sphere: bool(sphere.orders) and sphere.orders[-1].stopped)
        assert sphere.orders[-1].number == 2
    assert end_of(*group, version=1, reason="stopped").status == "stopped"
    assert control.wait(5.0) == 0
