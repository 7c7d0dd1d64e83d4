"""What a ledger must say of itself, of its config and its data, rule by rule, on ledgers that are made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from control.protocol import Closed
from control.record import GenerationRecord, OrderRecord, RunRecord, VersionRecord
from lightwatch.cli.audit import Plan, audit, in_force_at, is_whole
from lightwatch.cli.replay import differing


def version(number: int, **fields: object) -> VersionRecord:
    row = {"type": "Row", "generation": [1, 1], "version": number, "samples": 6, "weight": 6, "loss": 2.0}
    row |= {"learning_rate": 0.5, "check": number, "own_units": 3} if number else {"samples": 0, "weight": 0}
    row |= {"loss": None} if not number else {}
    row |= fields
    rate, loss = row.get("learning_rate"), row["loss"]
    return VersionRecord(number, 0, rate, loss, None, row.get("check"), "agreed", row)  # type: ignore[arg-type]


def record(*versions: VersionRecord, **others: Any) -> RunRecord:
    fields: dict[str, Any] = {"run_id": "cafe", "status": "completed", "reason": "", "usage": False, "incarnation": 1}
    fields |= {"version": versions[-1].version, "digest": None, "versions": list(versions), "orders": []}
    fields |= {"closings": {}, "generations": [GenerationRecord(1, 1, ["0", "1"], 0)], "failures": []}
    fields |= {"fingerprint": {}, "micro_batches": 3, "max_steps": 3, "spheres": {}}
    return RunRecord(**(fields | others))


PLAN = Plan(3, 3, 0.5, lambda update: 1.0, lambda version: (6, 6), lambda version: 0)


def told(record: RunRecord, plan: Plan | None = PLAN) -> list[str]:
    return [str(each) for each in audit(record, plan)]


def test_a_sound_ledger_has_no_contradiction() -> None:
    sound = record(*(version(n) for n in range(4)))
    assert told(sound) == [] and told(sound, None) == []


def test_contradictions_come_in_the_order_of_versions() -> None:
    """A gap is one, however wide; the end is known by max_steps and by closings."""
    holed = record(version(0), version(2, samples=5), version(3, samples=5), max_steps=9)
    assert [line.split(",")[0] for line in told(holed)] == ["version 1", "version 2", "version 3"]
    wide = record(version(0), version(9), status="failed")
    assert told(wide) == ["version 1, rows: expected rows up to version 8 by the versions around, found nothing"]
    short = replace(PLAN, max_steps=9)
    assert told(record(version(0), version(1)), short) == [
        "version 2, rows: expected rows up to version 9 by the run's end, found nothing"
    ]


def test_a_closing_is_the_last_versions() -> None:
    closed = {"0": Closed(generation=(1, 1), version=1, digest="d1")}
    rows = (version(0), replace(version(1), digest="d2"))
    assert told(record(*rows, closings=closed), None) == [
        "version 1, digest: expected d1 by the closing of sphere 0, found d2"
    ]
    assert told(record(version(0), closings=closed), None) == [
        "version 1, rows: expected a row by the run's end, found nothing"
    ]


def test_a_skipped_step_shows_its_samples_and_weighs_nothing() -> None:
    """It has no loss and no rate."""
    skipped = version(1, skipped=True, weight=0, loss=None, learning_rate=None)
    stopped = {"status": "stopped"}
    assert told(record(version(0), skipped, **stopped)) == []
    assert len(told(record(version(0), version(1, skipped=True), **stopped))) == 3
    lost = version(1, skipped=True, weight=0, loss=None, learning_rate=None, samples=4)
    assert told(record(version(0), lost, **stopped)) == ["version 1, samples: expected 6 by the data, found 4"]


def test_orders_given_in_a_pause_are_in_force_before_any_row_says_so() -> None:
    """The row that begins the pause names the pause alone; the next step has the rate that was ordered in it."""
    orders = [
        OrderRecord(1, "pause", None, 1, paused=True),
        OrderRecord(2, "set_learning_rate", 0.25, 1, paused=True),
        OrderRecord(3, "resume", 0.25, 1),
        OrderRecord(4, "stop", 0.25, None),
    ]
    rows = [version(0), version(1, in_force=1), version(2, in_force=3, learning_rate=0.25)]
    assert told(record(*rows, orders=orders, status="stopped")) == []
    assert [in_force_at(orders, n) for n in range(3)] == [0, 3, 3]
    rows[1] = version(1, in_force=2)
    orders[0] = replace(orders[0], version=0)
    assert "version 0, order in force" not in "".join(told(record(*rows, orders=orders)))  # a generation began there
    rows[2] = version(2, in_force=1, learning_rate=0.25)
    assert "version 2, order in force: expected at least 2 by the version before, found 1" in told(
        record(*rows, orders=orders, status="stopped")
    )


def test_the_newest_row_of_a_run_that_goes_on_may_be_ahead_of_the_orders() -> None:
    """Control writes the row, and then from which version an order was in force."""
    orders = [OrderRecord(1, "stop", None, None)]
    rows = (version(0), version(1, in_force=1))
    assert told(record(*rows, orders=orders, status="unfinished")) == []
    assert told(record(*rows, orders=orders, status="stopped")) == [
        "version 1, order in force: expected 0 by the orders' versions, found 1"
    ]


def test_a_ledger_that_was_begun_anew_lacks_no_row_before_it() -> None:
    late = {"incarnation": 2, "generations": [GenerationRecord(2, 7, ["0"], 5)], "status": "unfinished"}
    rows = (version(4, in_force=3), version(5, in_force=3))
    assert not is_whole(record(*rows, **late)) and told(record(*rows, **late), None) == []
    assert is_whole(record(*rows)) and told(record(*rows, status="unfinished"), None) != []


def test_the_first_field_that_differs_is_named_with_both_values() -> None:
    """What is known only here is no difference."""
    assert differing({"torch": "2", "threads": "1"}, {"torch": "2", "threads": "1", "probe": "x"}) == ""
    assert differing({"torch": "2", "threads": "1"}, {"torch": "2", "threads": "4"}) == (
        "threads was '1' in the run and is '4' here"
    )
