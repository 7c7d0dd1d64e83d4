"""The real process, over real sockets, with spheres that need no torch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import zmq

from control.client import ControlClient
from control.errors import ControlError
from control.process import ControlProcess
from control.protocol import (
    End,
    Expelled,
    How,
    Row,
    StoreAdd,
    StoreGet,
    StoreReply,
    StoreSet,
    View,
    Welcome,
)
from control.record import UNFINISHED, read_record
from control.status import Totals
from control.wire import encode
from tests.control.fakes import FakeSphere, Spheres, begun, until

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_a_client_finds_a_control_that_listens_on_ipv6(tmp_path: Path) -> None:
    """Loopback has two addresses, and control may bind either."""
    with (
        ControlProcess(tmp_path, run_id="run", listen="tcp://[::1]:*") as control,
        ControlClient(control.address) as client,
    ):
        assert client.status().state == "initializing"


def test_a_run_from_hello_to_end(tmp_path: Path, control: ControlProcess, spheres: Spheres) -> None:
    """All messages in their order, a ledger, metrics, exit code 0, and nothing left over in the folder."""
    first, second = begun(spheres, "1", "0")
    with ControlClient(tmp_path) as client:
        assert client.status().state == "running"
        for sphere in (first, second):  # the start, which no step made, and which the roll call knew by its digest
            sphere.say(Row(generation=sphere.generation, version=0, check=7))
        for version in (1, 2, 3):
            for sphere in (first, second):
                sphere.row(version)
        for sphere in (first, second):
            sphere.closed(3)
        for sphere in (first, second):
            assert sphere.expect(End) == End(status="completed", reason="reached version 3")
            sphere.leave()
    assert control.wait(5.0) == 0
    record = read_record(tmp_path / "ledger.db")
    assert (record.status, record.version, record.digest) == ("completed", 3, "end")
    assert [version.check for version in record.versions] == [7, 8, 9, 10]
    assert record.notes["tree"] == "2"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["version"], line["loss"], line["tokens_per_s"], line["digest"]) for line in lines] == [
        (1, 1.0, 128.0, None),
        (2, 0.5, 128.0, None),
        (3, 1 / 3, 128.0, None),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"ledger.db", "control.json", "control.log", "metrics.jsonl"}


def test_what_the_spheres_did_is_in_the_ledger_also_of_a_control_that_was_killed(
    tmp_path: Path, control: ControlProcess, spheres: Spheres
) -> None:
    """Each row counts once, though it comes twice; the metrics say who was last, at what pace."""
    first, second = begun(spheres, "0", "1")
    for version in (1, 2):
        first.row(version, seconds={"step": 0.5, "wait": 0.25}, slowest="1", own_units=6, samples=16)
        second.row(version, seconds={"step": 0.5, "wait": 0.0}, slowest="1", own_units=2, samples=16)
        second.row(version, seconds={"step": 0.5, "wait": 0.0}, slowest="1", own_units=2, samples=16)
    until(lambda: [each.versions for each in read_record(tmp_path / "ledger.db").totals.values()] == [2, 2])
    control.process.kill()
    record = read_record(tmp_path / "ledger.db")
    assert record.status == UNFINISHED
    assert record.totals["0"] == Totals(versions=2, micro_batches=12, seconds={"step": 1.0, "wait": 0.5})
    assert record.totals["1"] == Totals(versions=2, micro_batches=4, seconds={"step": 1.0, "wait": 0.0}, held_up_s=0.5)
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert (line["slowest"], line["samples_per_s"], line["micro_batches_per_s"]) == ("1", 32.0, 16.0)
    assert (line["clip_ratio"], line["trouble"]) == (None, None)


def test_members_are_in_tree_order_and_the_deal_is_in_every_go(control: ControlProcess, spheres: Spheres) -> None:
    """Whoever came first; all stand at v0, so nobody fetches."""
    late, early = spheres("1", "0")
    assert [late.join(micro_batches=3), early.join(micro_batches=3)] == [1, 2]
    for sphere in (late, early):
        sphere.ready()
    go, other = early.go(), late.go()
    assert (go.how, other.how) == (How.HERE, How.HERE)
    assert go.deal == other.deal == {2: [0, 1], 1: [2]}


def test_it_is_ready_soon_and_imports_no_torch(tmp_path: Path) -> None:
    """Half a second of its own work on an idle machine: here its processor time, which others don't lengthen."""
    with ControlProcess(tmp_path, run_id="run", tree="2") as process:
        times = psutil.Process(process.pid).cpu_times()
        assert times.user + times.system < 0.5
        maps = Path(f"/proc/{process.pid}/maps")
        if maps.exists():
            assert "torch" not in maps.read_text()
    about = json.loads((tmp_path / "control.json").read_text())
    assert about == {
        "address": process.address,
        "run_id": "run",
        "pid": process.pid,
        "incarnation": 1,
        "host": socket.gethostname(),
    }


def test_a_port_in_use_is_one_sentence_and_code_2(tmp_path: Path) -> None:
    """No traceback; the port is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "control", "--dir", str(tmp_path), "--run-id", "run", "--listen", listen]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
        assert done.returncode == 2
        sentence = f"control can't listen at {listen}: the port is in use; give another --listen [LW504]"
        assert done.stderr == f"control: {sentence}\n"
        with pytest.raises(ControlError, match="the port is in use"):
            ControlProcess(tmp_path, run_id="run", listen=listen)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--listen", "tcp://0.0.0.0:*", "loopback"),
        ("--tree", "0x2", "0x2"),
        ("--run-id", "a/b", "run id"),
        ("--silence-s", "0", "silence_s"),
        ("--dir", "/nowhere/at/all", "can't be opened"),
    ],
)
def test_what_can_not_be_started_is_refused_with_code_2(tmp_path: Path, option: str, value: str, words: str) -> None:
    """One line on stderr, nothing in the folder."""
    options = {"--dir": str(tmp_path), "--run-id": "run", option: value}
    command = [sys.executable, "-m", "control", *(f"{name}={text}" for name, text in options.items())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_it_ends_with_the_pipe_that_its_launcher_holds(
    tmp_path: Path, control: ControlProcess, spheres: Spheres
) -> None:
    """End of file on stdin: at once, and the ledger says why."""
    begun(spheres, "0", "1")
    assert control.process.stdin is not None
    control.process.stdin.close()
    assert control.wait(3.0) == 1
    record = read_record(tmp_path / "ledger.db")
    assert (record.status, record.reason) == ("failed", "the launcher died [LW514]")


def test_a_killed_control_leaves_a_ledger_that_can_be_read(
    tmp_path: Path, control: ControlProcess, spheres: Spheres
) -> None:
    """Everything that somebody has heard of is in it."""
    first, second = begun(spheres, "0", "1")
    with ControlClient(tmp_path) as client:
        first.row(1)
        second.row(1)
        until(lambda: client.status().version == 1)
        control.process.kill()
        control.process.wait()
    record = read_record(tmp_path / "ledger.db")
    assert (record.status, record.version) == (UNFINISHED, 1)
    assert record.generations[0].members == ["0", "1"]


def test_a_differing_fingerprint_is_refused_and_fails_the_run(control: ControlProcess, spheres: Spheres) -> None:
    """The refused one hears the sentence, the other that the run is over."""
    first, second = spheres("0", "1")
    first.join()
    second.join(threads="4")
    assert "its threads is '4', the others' is '1'" in second.refused()
    assert "sphere 1: its threads" in first.expect(End).reason


def test_a_second_sphere_at_a_path_is_refused_and_harms_nobody(control: ControlProcess, spheres: Spheres) -> None:
    """It hears who has the path."""
    first, again = spheres("0", "0")
    first.join()
    again.hello(pid=1)
    assert f"the path is taken by pid {os.getpid()}" in again.refused()
    (second,) = spheres("1")
    second.join()
    first.expect(View)


def test_the_seat_of_a_sphere_that_speaks_is_nobody_elses(control: ControlProcess, spheres: Spheres) -> None:
    """Also not for who calls itself the same process: a sphere that is back speaks as the same peer as before."""
    first, stranger = spheres("0", "0")
    first.join()
    stranger.hello()
    assert "speaks over a connection that stands" in stranger.refused()
    (second,) = spheres("1")
    second.join()
    first.expect(View)


def test_who_has_a_successor_and_lives_is_told_to_leave(control: ControlProcess, spheres: Spheres) -> None:
    """A supervisor may be wrong; then two would speak for one path, and one of them into the void."""
    first, successor = spheres("0", "0")
    first.join()
    successor.hello(pid=1, former=os.getpid())
    successor.expect(Welcome)
    assert "has a successor" in first.expect(Expelled).text


def test_a_stranger_that_speaks_no_zeromq_reaches_nothing(control: ControlProcess, spheres: Spheres) -> None:
    """Text, and bytes that libzmq takes for a peer of its first protocol: the connection is all that they cost."""
    first, _ = begun(spheres, "0", "1")
    port = int(control.address.rpartition(":")[2])
    strangers = (b"hello world, a quite long line of text\n" * 40, b"\x01\x00\x06\x00hello", b"\x01\x00\x02\x00x" * 9)
    for text in strangers:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
            stranger.sendall(text)
            stranger.settimeout(1)
            try:
                while stranger.recv(4096):
                    pass
            except OSError:
                pass
            first.row(1)
            with ControlClient(control.address) as client:
                assert client.status().state == "running"
    assert control.poll() is None


def test_junk_reaches_nothing(control: ControlProcess, spheres: Spheres) -> None:
    """Frames that are no message, too many parts, control's own messages: dropped, and control answers on."""
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(control.address)
    for frame in (b"", b"\x00", b"\xc1" * 100, encode(End(status="completed")), os.urandom(5000)):
        dealer.send(frame)
    dealer.send_multipart([b"one", b"two"])
    dealer.send(encode(StoreSet(generation=(0, 0), request=1, key="k", value=b"")))
    with ControlClient(control.address) as client:
        assert client.status().spheres == []
        begun(spheres, "0", "1")
        assert client.status().state == "running"
    dealer.close(0)
    context.term()


def test_spheres_meet_in_the_store(control: ControlProcess, spheres: Spheres) -> None:
    """A get waits for the other's set; an older generation is not answered."""
    first, second = begun(spheres, "0", "1")
    first.say(StoreGet(generation=first.generation, request=1, keys=["peer"]))
    second.say(StoreSet(generation=(0, 9), request=2, key="peer", value=b"old"))
    second.say(StoreSet(generation=second.generation, request=3, key="peer", value=b"new"))
    assert second.expect(StoreReply).request == 3
    assert first.expect(StoreReply).values == [b"new"]
    first.say(StoreAdd(generation=first.generation, request=4, key="n", amount=5))
    assert first.expect(StoreReply).values == [b"5"]


def test_sigterm_is_a_stop_order_and_the_second_ends_at_once(
    tmp_path: Path, control: ControlProcess, spheres: Spheres
) -> None:
    """SIGINT is the launcher's business."""
    first = begun(spheres, "0", "1")[0]
    control.process.send_signal(signal.SIGINT)
    control.process.send_signal(signal.SIGTERM)
    first.wait(lambda sphere: [order.stopped for order in sphere.orders] == [True])
    control.process.send_signal(signal.SIGTERM)
    assert control.wait(3.0) == 1
    assert read_record(tmp_path / "ledger.db").orders[0].what == "stop"


def test_a_record_that_can_not_be_written_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    """The spheres hear it though the ledger can't hold it."""
    with ControlProcess(tmp_path, run_id="run", tree="1x1") as control:
        sphere = FakeSphere(control.address, "0/0")
        try:
            begun(lambda *paths: [sphere], "0/0")
            (tmp_path / "metrics.jsonl").mkdir()  # what can't be written, as on a full disk
            sphere.row(1)
            end = sphere.expect(End)
            assert end.status == "failed" and end.reason.startswith("control can't go on: ")
        finally:
            sphere.leave()
        assert control.wait(5.0) == 1
    assert read_record(tmp_path / "ledger.db").reason == end.reason
