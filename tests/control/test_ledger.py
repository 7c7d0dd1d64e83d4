"""The durable record: whole after a kill, one writer, readable beside the writer and after it."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from control.errors import LedgerError
from control.events import (
    Event,
    GenerationBegun,
    GenerationProposed,
    OrderGiven,
    OrderTook,
    RunEnded,
    SphereCame,
    SphereClosed,
    SphereFailed,
    SphereProved,
    SphereReported,
)
from control.ledger import Ledger
from control.protocol import Closed, Failed, Hello, How, Member, Position, Proof, Record, Row, Wanted
from control.record import UNFINISHED, read_record
from control.versions import Versions, obeying, reported

GENERATION = (1, 1)


def row(version: int, **fields: object) -> Row:
    return Row(generation=GENERATION, version=version, loss=1.0 / (version + 1), check=version, **fields)  # type: ignore[arg-type]


def run_of_one(ledger: Ledger) -> None:
    """What control writes for a run of one sphere up to version 2 with an order."""
    hello = Hello(run_id="run", path="0", pid=7, host="here")
    ledger.record(SphereCame(sphere=1, hello=hello, at_s=0.0))
    proof = Proof(fingerprint={"torch": "2"}, micro_batches=4, max_steps=2)
    ledger.record(SphereProved(sphere=1, proof=proof, at_s=0.0))
    ledger.record(GenerationProposed(generation=GENERATION, members=(Member(sphere=1, path="0"),), at_s=0.0))
    begun = GenerationBegun(
        generation=GENERATION,
        members=(Member(sphere=1, path="0"),),
        position=Position(),
        deal={1: [0, 1]},
        how={1: How.HERE},
        founding=True,
        digest="d0",
    )
    ledger.record(begun)
    ledger.record(OrderGiven(wanted=Wanted(number=1, learning_rate=0.5), what="set_learning_rate", request="r"))
    ledger.record(SphereReported(sphere=1, row=row(1, in_force=1), at_s=1.0))
    ledger.record(OrderTook(number=1, version=1))
    ledger.record(SphereReported(sphere=1, row=row(2), at_s=2.0))
    ledger.commit()


def test_a_version_costs_the_ledger_the_same_however_many_there_were(tmp_path: Path) -> None:
    """In SQLite's own steps, which no machine's speed changes: a long run's control is no slower than a short one's."""
    steps = [0]

    def step() -> int:
        steps[0] += 1
        return 0

    def cost(ledger: Ledger, version: int) -> int:
        ledger._connection.set_progress_handler(step, 1)
        before = steps[0]
        ledger.record(SphereReported(sphere=1, row=row(version), at_s=1.0))
        ledger._connection.set_progress_handler(None, 1)
        return steps[0] - before

    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        run_of_one(ledger)
        early = cost(ledger, 3)
        for version in range(4, 2000):
            ledger.record(SphereReported(sphere=1, row=row(version), at_s=1.0))
        assert 0 < cost(ledger, 2000) <= 2 * early
        ledger.commit()
    states = [version.state for version in read_record(tmp_path / "ledger.db").versions]
    assert set(states[:-1]) == {"agreed"} and states[-1] == "claimed"


def test_what_was_recorded_is_read_back(tmp_path: Path) -> None:
    """Versions with their states, generations, orders, closings, fingerprint, the end."""
    path = tmp_path / "ledger.db"
    with Ledger.open(path, "run") as ledger:
        run_of_one(ledger)
        ledger.record(SphereClosed(sphere=1, closed=Closed(generation=GENERATION, version=2, digest="d2"), at_s=3.0))
        ledger.record(RunEnded(status="completed", reason="reached version 2", at_s=3.0))
    record = read_record(path)
    assert (record.status, record.reason, record.version, record.digest) == ("completed", "reached version 2", 2, "d2")
    assert [(version.version, version.state, version.digest) for version in record.versions] == [
        (0, "agreed", "d0"),
        (1, "agreed", None),
        (2, "agreed", "d2"),
    ]
    assert [(order.number, order.what, order.learning_rate, order.version) for order in record.orders] == [
        (1, "set_learning_rate", 0.5, 1)
    ]
    assert [(each.number, each.members, each.begun_at_version) for each in record.generations] == [(1, ["0"], 0)]
    assert record.closing is not None and record.closing.digest == "d2"
    assert (record.fingerprint, record.micro_batches, record.max_steps) == ({"torch": "2"}, 4, 2)
    assert record.spheres == {"0": {"sphere": 1, "pid": 7, "host": "here", "address": "127.0.0.1"}}


def test_the_last_row_is_claimed_until_a_later_one_or_a_closing_agrees_it(tmp_path: Path) -> None:
    """One sphere's word is a claim."""
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        run_of_one(ledger)
        states = [version.state for version in read_record(tmp_path / "ledger.db").versions]
    assert states == ["agreed", "agreed", "claimed"]


def test_a_closed_ledger_is_one_file(tmp_path: Path) -> None:
    """No log, no shared memory, no lock file beside it."""
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        run_of_one(ledger)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.db"]


def test_a_ledger_whose_writer_was_killed_reads_whole(tmp_path: Path) -> None:
    """SIGKILL after a commit and inside the next transaction: all of the first is there, nothing of the second."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.control.test_ledger import row, run_of_one\n"
        "from control.events import RunEnded, SphereReported\n"
        "from control.ledger import Ledger\n"
        "ledger = Ledger.open(Path(sys.argv[1]), 'run')\n"
        "run_of_one(ledger)\n"
        "ledger.record(SphereReported(sphere=1, row=row(3), at_s=3.0))\n"
        "print('here', flush=True)\n"
        "sys.stdin.read()\n"
    )
    path = tmp_path / "ledger.db"
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"here\n"
        assert read_record(path).version == 2, "also while it is being written"
        with pytest.raises(LedgerError, match="another process is writing it"):
            Ledger.open(path, "run")
        child.send_signal(signal.SIGKILL)
        child.wait()
    record = read_record(path)
    assert (record.status, record.version) == (UNFINISHED, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.db"], "the reader folds the log in"
    with Ledger.open(path, "run") as again:
        assert again.incarnation == 2


def test_there_is_one_writer_and_each_has_a_higher_incarnation(tmp_path: Path) -> None:
    """The lock is held for as long as the ledger is open."""
    path = tmp_path / "ledger.db"
    for incarnation in (1, 2, 3):
        with Ledger.open(path, "run") as ledger:
            assert ledger.incarnation == incarnation
            with pytest.raises(LedgerError, match="another process is writing it"):
                Ledger.open(path, "run")
    with pytest.raises(LedgerError, match="it is of run 'run', not of 'other'"):
        Ledger.open(path, "other")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the two kinds of lock are one")
def test_the_writers_lock_is_no_lock_of_the_whole_file(tmp_path: Path) -> None:
    """Over NFS and on macOS SQLite's own locks would meet it; here a lock of that kind is still to be had."""
    path = tmp_path / "ledger.db"
    with Ledger.open(path, "run"), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_is_no_ledger_is_an_error_of_one_line(tmp_path: Path) -> None:
    """A missing file, a missing folder, a file of something else: for the writer and for the reader."""
    other = tmp_path / "other.db"
    other.write_bytes(b"no database" * 100)
    with pytest.raises(LedgerError):
        Ledger.open(other, "run")
    for path in (other, tmp_path / "missing.db"):
        with pytest.raises(LedgerError) as caught:
            read_record(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(LedgerError, match="can't be opened"):
        Ledger.open(tmp_path / "no" / "ledger.db", "run")
    with sqlite3.connect(tmp_path / "empty.db") as connection:
        connection.execute("CREATE TABLE t(x)")
    connection.close()
    with pytest.raises(LedgerError, match="can't be read"):
        read_record(tmp_path / "empty.db")


def test_a_failure_is_kept_with_its_traceback(tmp_path: Path) -> None:
    """For --debug; the sentence is for everybody."""
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        run_of_one(ledger)
        failed = Failed(text="the disk is full", usage=True, detail="Traceback …")
        ledger.record(SphereFailed(sphere=1, failed=failed, at_s=1.0))
    (failure,) = read_record(tmp_path / "ledger.db").failures
    assert (failure.path, failure.kind, failure.text) == ("0", "failed", "the disk is full")
    assert failure.usage and failure.detail == "Traceback …"


def test_a_run_without_control_records_itself(tmp_path: Path) -> None:
    """The same file from the alone run: rows, notes, the end."""
    path = tmp_path / "ledger.db"
    with Ledger.open(path, "run") as ledger:
        ledger.set("fingerprint", {"torch": "2"})
        ledger.set("micro_batches", 8)
        for version in (0, 1, 2):
            ledger.record_row(row(version, digest=f"d{version}", learning_rate=float("nan")))
        assert [version.state for version in read_record(path).versions] == ["agreed", "agreed", "claimed"]
        ledger.end("stopped", "stopped at version 2")
    record = read_record(path)
    assert (record.status, record.version, record.digest, record.micro_batches) == ("stopped", 2, "d2", 8)
    assert record.fingerprint == {"torch": "2"}
    assert [(version.state, version.learning_rate) for version in record.versions] == [("agreed", None)] * 3


def test_a_full_disk_is_a_ledger_error_and_what_was_there_stays(tmp_path: Path) -> None:
    """The size of files is limited here as a disk would; the transaction before is whole."""
    path = tmp_path / "ledger.db"
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ledger = Ledger.open(path, "run")
    try:
        run_of_one(ledger)
        size = os.path.getsize(str(path) + "-wal")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10_000, hard))
        with pytest.raises(LedgerError, match="is the disk full"):
            for version in range(3, 2000):
                ledger.record_row(row(version, suspect="x" * 500))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
        ledger.close()
    record = read_record(path)
    assert 2 <= record.version < 1999
    assert len(record.versions) == record.version + 1


def test_a_control_that_starts_anew_reads_all_facts_in_their_order(tmp_path: Path) -> None:
    """What was committed, equal to what was recorded; rows are versions and no facts."""
    facts: list[Event] = [
        SphereCame(sphere=1, hello=Hello(run_id="run", path="0", pid=7, host="here"), at_s=0.0),
        GenerationProposed(generation=GENERATION, members=(Member(sphere=1, path="0"),), at_s=0.5),
        GenerationBegun(
            generation=GENERATION,
            members=(Member(sphere=1, path="0"),),
            position=Position(version=3, attempt=1),
            deal={1: [0, 1]},
            how={1: How.RECORD},
            keep=[1],
            record=Record(start=Position(version=3), end=Position(version=3, attempt=1), tail=b"\x00\xff"),
            in_force=2,
            in_force_at={4: 3},
            known=5,
        ),
        OrderGiven(wanted=Wanted(number=1, learning_rate=0.5, paces={1: 0.25}), what="deal", request="r"),
        RunEnded(status="stopped", reason="stopped", at_s=9.0),
    ]
    path = tmp_path / "ledger.db"
    with Ledger.open(path, "run") as ledger:
        for fact in facts:
            ledger.record(fact)
        ledger.record(SphereReported(sphere=1, row=row(1), at_s=1.0))
    with Ledger.open(path, "run") as again:
        assert list(again.facts()) == facts


def test_rows_are_read_back_for_a_control_that_starts_anew(tmp_path: Path) -> None:
    """As they were reported, with a digest that came later; held stops below a gap."""
    path = tmp_path / "ledger.db"
    with Ledger.open(path, "run") as ledger:
        assert (ledger.held(), ledger.newest_rows(5)) == (-1, [])
        run_of_one(ledger)
        ledger.record_row(row(5))
        closed = Closed(generation=GENERATION, version=5, digest="d5")
        ledger.record(SphereClosed(sphere=1, closed=closed, at_s=3.0))
    with Ledger.open(path, "run") as again:
        assert again.held() == 2
        assert [each.version for each in again.newest_rows(3)] == [1, 2, 5]
        assert [each.version for each in again.rows_after(1)] == [2, 5]
        found = again.row(5)
        assert found is not None and (found.digest, found.check) == ("d5", 5)
        assert again.row(4) is None


def test_the_row_of_a_version_at_which_a_generation_begins_obeys_as_that_does(tmp_path: Path) -> None:
    """Whoever told that version first may have had a tail to itself; the others, who go on, had heard of more."""
    begun = GenerationBegun(
        generation=GENERATION, members=(), position=Position(version=5), deal={}, how={}, in_force=4
    )
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        for version, in_force in ((4, 3), (5, 3), (6, 5)):
            ledger.record(SphereReported(sphere=1, row=row(version, in_force=in_force), at_s=1.0))
        ledger.record(begun)
        ledger.commit()
        assert [each.in_force for each in ledger.rows_after(0)] == [3, 4, 5]
    claimed = reported(Versions(), 1, row(5, in_force=3), True)
    assert obeying(claimed, 5, 4).claims[5].row.in_force == 4
    assert obeying(claimed, 5, 2) is claimed and obeying(claimed, 6, 4) is claimed
