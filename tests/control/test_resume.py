"""A run that goes on with other processes: what of its past counts, and from where it goes on."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from control.apply import apply
from control.config import Settings
from control.events import (
    CheckpointSaved,
    Event,
    GenerationBegun,
    GenerationProposed,
    OrderGiven,
    OrderTook,
    Resumed,
    RunEnded,
    SphereCame,
    SphereClosed,
    SphereProved,
    SphereReported,
)
from control.journal import Journal
from control.ledger import Ledger
from control.membership import differences
from control.plan import Decide, Send, plan
from control.protocol import Closed, Go, Hello, How, Member, Position, Proof, Ready, Row, Stored, ToSphere, Wanted
from control.recall import recalled
from control.record import UNFINISHED, read_record
from control.resume import resume
from control.state import ControlStatus, State

GENERATION = (1, 1)
PROOF = Proof(fingerprint={"torch": "2", "threads": "1"}, micro_batches=4, max_steps=20)


def begin(ledger: Ledger, path: str = "eu/0") -> None:
    """A run of one sphere, told to go."""
    for event in (
        SphereCame(sphere=1, hello=Hello(run_id="run", path=path, pid=7, host="here"), at_s=0.0),
        SphereProved(sphere=1, proof=PROOF, at_s=0.0),
        GenerationProposed(generation=GENERATION, members=(Member(sphere=1, path=path),), at_s=0.0),
        GenerationBegun(
            generation=GENERATION,
            members=(Member(sphere=1, path=path),),
            position=Position(),
            deal={1: [0, 1, 2, 3]},
            how={1: How.HERE},
            founding=True,
            digest="d0",
        ),
    ):
        ledger.record(event)


def rows(ledger: Ledger, first: int, last: int, **fields: object) -> None:
    for version in range(first, last + 1):
        row = Row(generation=GENERATION, version=version, check=version, digest=f"d{version}", **fields)  # type: ignore[arg-type]
        ledger.record(SphereReported(sphere=1, row=row, at_s=0.0))


def saved(version: int) -> CheckpointSaved:
    stored = Stored(name=f"step-{version}", lineage=0, version=version, digest=f"d{version}")
    return CheckpointSaved(stored=stored, generation=GENERATION, saves=0, manifest_sha256="m", bytes=9, at_s=0.0)


def stop(ledger: Ledger, version: int) -> None:
    """The run was stopped there, and is over."""
    ledger.record(OrderGiven(wanted=Wanted(number=1, stopped=True, learning_rate=0.5), what="stop", request=""))
    ledger.record(OrderTook(number=1, version=version))
    closed = Closed(generation=GENERATION, version=version, digest=f"d{version}", reason="stopped")
    ledger.record(SphereClosed(sphere=1, closed=closed, at_s=0.0))
    ledger.record(RunEnded(status="stopped", reason="stopped", at_s=0.0))


def stopped_at(ledger: Ledger, version: int = 12) -> None:
    begin(ledger)
    rows(ledger, 1, version)
    ledger.record(saved(10))
    stop(ledger, version)
    ledger.set("tree", "eu:1")
    ledger.commit()


def settings(folder: Path, tree: str = "2", resume: str = "on") -> Settings:
    return Settings(folder=folder, run_id="run", tree=tree, resume=resume)


def gone_on(folder: Path, tree: str = "2", how: str = "on") -> State:
    """What a control knows that goes on with the run on another tree."""
    with Ledger.open(folder / "ledger.db", "run") as ledger:
        resume(ledger, settings(folder, tree, how))
        ledger.set("tree", tree)
        return recalled(ledger, settings(folder, tree, how), 0.0)


def called(state: State, now_s: float = 1.0) -> State:
    """All who are expected have come and proved themselves."""
    for path in state.paths:
        hello = Hello(run_id="run", path=path, pid=100, host="there")
        came = SphereCame(sphere=state.next_sphere, hello=hello, at_s=now_s)
        state = apply(state, came)
        state = apply(state, SphereProved(sphere=came.sphere, proof=PROOF, at_s=now_s))
    return settled(state, now_s)[0]


def settled(state: State, now_s: float = 1.0) -> tuple[State, list[ToSphere], list[Event]]:
    """After all facts that follow; what would be sent, and what happened."""
    facts: list[Event] = []
    while True:
        effects = plan(state, now_s)
        events = [effect.event for effect in effects if isinstance(effect, Decide)]
        if not events:
            return state, [effect.message for effect in effects if isinstance(effect, Send)], facts
        for event in events:
            facts.append(event)
            state = apply(state, event)


def answered(state: State, *stored: Stored, digest: str | None = None, has_v0: bool = False) -> tuple[State, Go | str]:
    """All say that they hold nothing but what is on the disk; how the generation begins, or why the run ends."""
    for member in state.members:
        ready = Ready(
            generation=state.generation,
            position=Position(),
            holds_state=False,
            has_v0=has_v0,
            digest=digest,
            stored=list(stored),
        )
        answered = replace(state.seats[member.sphere], ready=ready)
        state = replace(state, seats=state.seats.having({member.sphere: answered}))
    state, sent, _ = settled(state)
    gos = [message for message in sent if isinstance(message, Go)]
    return state, gos[0] if gos else state.ended.reason if state.ended else "nothing"


def at(version: int, **fields: object) -> Stored:
    values = {"name": f"step-{version}", "lineage": 0, "version": version, "digest": f"d{version}", **fields}
    return Stored(**values)  # type: ignore[arg-type]


# ---------------------------------------------------------------- what counts


def test_nobody_of_before_is_expected_and_nothing_of_it_is_over(tmp_path: Path) -> None:
    """Another tree, from the beginning; the numbers go on, so that nobody's is given twice."""
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        stopped_at(ledger)
    state = gone_on(tmp_path)
    assert (state.paths, state.tree, len(state.seats), state.begun, state.ended) == (("0", "1"), "2", 0, None, None)
    assert state.status is ControlStatus.INITIALIZING and state.adopting_s is None and state.resumed
    assert (state.next_sphere, state.generation, state.founded) == (2, GENERATION, "d0")
    assert state.versions.top == 12 and state.saves.last == at(10)
    state = called(state)
    assert state.generation == (state.incarnation, 1) and state.incarnation > 1
    assert [member.sphere for member in state.members] == [2, 3]


def test_the_record_of_a_run_that_goes_on_is_of_those_who_are_in_it(tmp_path: Path) -> None:
    """What was written of the end is withdrawn; all checkpoints and versions stay."""
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        stopped_at(ledger)
    assert read_record(tmp_path / "ledger.db").status == "stopped"
    gone_on(tmp_path)
    record = read_record(tmp_path / "ledger.db")
    assert (record.status, record.reason, record.closings, record.failures, record.spheres) == (
        UNFINISHED,
        "",
        {},
        [],
        {},
    )
    assert [each.folder for each in record.checkpoints] == ["step-10"] and record.version == 12
    assert [(each.number, each.what, each.version) for each in record.orders] == [(1, "stop", 12), (2, "go on", 12)]


def test_a_control_that_dies_after_it_went_on_knows_the_same(tmp_path: Path) -> None:
    """It is started anew without being told to go on once more."""
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        stopped_at(ledger)
    first = gone_on(tmp_path)
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        again = recalled(ledger, settings(tmp_path, resume=""), 0.0)
        assert sum(isinstance(event, Resumed) for event in ledger.facts()) == 1
    assert again == replace(first, incarnation=again.incarnation)


def test_a_run_can_go_on_more_than_once(tmp_path: Path) -> None:
    """On a third tree; what was ordered in between counts too, and its number is not given again."""
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        stopped_at(ledger)
    gone_on(tmp_path)
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        ledger.record(OrderGiven(wanted=Wanted(number=3, paused=True), what="pause", request=""))
        ledger.commit()
    state = gone_on(tmp_path, tree="3")
    assert state.paths == ("0", "1", "2")
    assert [order.what for order in state.orders] == ["stop", "go on", "pause", "go on"]
    assert all(order.version == 12 for order in state.orders) and not state.wanted.paused


def test_orders_that_change_the_bits_go_on_to_hold(tmp_path: Path) -> None:
    """The last one's rate; but neither its stop nor its pause."""
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        stopped_at(ledger)
    wanted = gone_on(tmp_path).wanted
    assert (wanted.number, wanted.learning_rate, wanted.stopped, wanted.paused) == (2, 0.5, False, False)


def test_a_run_that_nobody_stopped_gets_no_order(tmp_path: Path) -> None:
    """It was killed: what was in force goes on to be."""
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        begin(ledger)
        ledger.record(OrderGiven(wanted=Wanted(number=1, learning_rate=0.5), what="set_learning_rate", request=""))
        ledger.record(OrderTook(number=1, version=3))
        rows(ledger, 1, 4)
        ledger.commit()
    assert [(order.what, order.version) for order in gone_on(tmp_path).orders] == [("set_learning_rate", 3)]


def test_a_checkpoint_that_was_ordered_and_not_made_is_forgotten(tmp_path: Path) -> None:
    """Its client is gone: else the next one would be told to wait for it."""
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        begin(ledger)
        ledger.record(OrderGiven(wanted=Wanted(number=1, saves=1, save_as="best"), what="checkpoint", request=""))
        rows(ledger, 1, 4)
        ledger.commit()
    state = gone_on(tmp_path)
    assert state.saves.settled == state.wanted.saves == 1


# ---------------------------------------------------------------- from where


def test_it_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    """Versions above it are made again under the orders that they had, and the stop of then stops nobody."""
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        stopped_at(ledger)
    _, go = answered(called(gone_on(tmp_path)), at(10), at(5), digest="d0", has_v0=True)
    assert isinstance(go, Go) and go.position == Position(version=10) and go.load == at(10)
    assert (go.how, go.digest, go.known) == (How.LOAD, "d10", 12)
    assert (go.in_force, go.in_force_at) == (0, {12: 2}), "order 1 was the stop; order 2 lets it go on"


def test_without_a_checkpoint_it_goes_on_from_version_0(tmp_path: Path) -> None:
    """From the file, or from what all have built, if that is what the run began with."""
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        stopped_at(ledger)
    state = called(gone_on(tmp_path))
    _, go = answered(state, digest="d0", has_v0=True)
    assert isinstance(go, Go) and (go.how, go.load, go.known) == (How.LOAD, None, 12)
    _, go = answered(state, digest="d0")
    assert isinstance(go, Go) and (go.how, go.known, go.in_force_at) == (How.HERE, 12, {12: 2})
    _, why = answered(state, digest="other")
    assert isinstance(why, str) and why.endswith("[LW212]")


def test_with_the_ledger_lost_it_begins_at_the_checkpoint(tmp_path: Path) -> None:
    """And the ledger says from where on it knows the run."""
    state = called(gone_on(tmp_path))
    state, go = answered(state, at(10), has_v0=True)
    assert isinstance(go, Go) and go.position == Position(version=10) and state.founded is None
    assert state.versions.held == state.versions.agreed == 10
    assert state.begun is not None and state.begun.founding
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        ledger.record(state.begun)
        ledger.commit()
        assert ledger.get("begun_at") == 10
    record = read_record(tmp_path / "ledger.db")
    assert [(each.version, each.digest, each.state) for each in record.versions] == [(10, "d10", "agreed")]


def test_what_was_overridden_opens_a_lineage_at_the_checkpoint(tmp_path: Path) -> None:
    """What was made above it is history, and nothing of it is made again."""
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        stopped_at(ledger)
    state, go = answered(called(gone_on(tmp_path, how="anew")), at(10))
    assert isinstance(go, Go) and go.position == Position(lineage=1, version=10) and go.load == at(10)
    assert (go.known, go.in_force, go.in_force_at) == (-1, 2, {})
    assert state.begun is not None and (state.lineage, state.origin, state.versions.held) == (1, 10, 10)
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        for sphere, seat in state.seats.items():
            ledger.record(SphereCame(sphere=sphere, hello=seat.hello, at_s=0.0))
        ledger.record(GenerationProposed(generation=state.generation, members=state.members, at_s=0.0))
        ledger.record(state.begun)
        ledger.commit()
        assert ledger.lineage() == (1, 10) and ledger.held() == 10
        assert [row.version for row in ledger.rows_after(8)] == [9, 10] and ledger.row(11) is None
        again = recalled(ledger, settings(tmp_path, resume=""), 0.0)
    assert (again.lineage, again.origin, again.versions.top) == (1, 10, 10)
    record = read_record(tmp_path / "ledger.db")
    assert (record.version, record.lineage, record.lineage_began_at) == (10, 1, 10)
    assert all(order.version == 10 for order in record.orders)


def test_the_metrics_are_cut_back_where_a_lineage_begins(tmp_path: Path) -> None:
    """Neither a gap nor a repeat, and no half of a file whatever happens."""
    journal = Journal(tmp_path)
    for version in range(1, 8):
        journal.write(Row(generation=GENERATION, version=version, loss=0.5), 4)
    journal.cut_back(9)
    journal.cut_back(5)
    journal.write(Row(generation=GENERATION, version=6, loss=0.25), 4)
    assert Journal(tmp_path).newest == 6
    lines = journal.path.read_text().splitlines()
    assert len(lines) == 6 and '"loss": 0.25' in lines[-1].replace('":0', '": 0')
    assert list(tmp_path.iterdir()) == [journal.path]


def test_another_machine_is_told_of_in_a_sentence_a_field() -> None:
    """Its bits may be others: nobody finds that out later."""
    former = {"torch": "2", "threads": "1"}
    assert not differences(former, dict(former))
    (sentence,) = differences(former, {"torch": "3", "threads": "1"})
    assert sentence.startswith("torch was '2' so far and is '3' now")


def test_those_who_go_on_are_compared_with_those_of_before(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.db", "run") as ledger:
        stopped_at(ledger)
    assert gone_on(tmp_path).former == PROOF.fingerprint
