"""What a run's ledger must say: of itself, of its config and its data. Values in, contradictions out; reads nothing.

Each rule is one function. What a rule expects is worked out beside the row, never from it: a row that was changed by
hand contradicts its own columns, the config, the data, an order, a closing, or else the replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from control.protocol import Row
    from control.record import OrderRecord, RunRecord, VersionRecord


@dataclass(frozen=True)
class Contradiction:
    """At this version something else was found than `by` says it must be."""

    version: int
    what: str
    expected: object
    found: object
    by: str

    def __str__(self) -> str:
        found = "nothing" if self.found is None else self.found
        expected = "none" if self.expected is None else self.expected
        return f"version {self.version}, {self.what}: expected {expected} by {self.by}, found {found}"


@dataclass(frozen=True)
class Plan:
    """What config and data say of each version.

    factor: update -> what the schedule makes of the base rate. counts: version -> samples and targets of the step that
    makes it; None where the data are not at hand. epoch_of: likewise, its epoch.
    """

    micro_batches: int
    max_steps: int
    learning_rate: float
    factor: Callable[[int], float]
    counts: Callable[[int], tuple[int, int]] | None = None
    epoch_of: Callable[[int], int] | None = None


def audit(record: RunRecord, plan: Plan | None) -> list[Contradiction]:
    """Every contradiction in the ledger, the first version's first. plan: None for a script's run."""
    rows, found = read_rows(record)
    found += [*missing(record, plan), *in_two_places(record, rows), *closed_otherwise(record)]
    if is_whole(record):
        found += ordered(record, rows)
    if plan is not None:
        found += [*miscounted(record, rows, plan), *rated(record, rows, plan)]
    return sorted(found, key=lambda each: each.version)


def read_rows(record: RunRecord) -> tuple[dict[int, Row], list[Contradiction]]:
    """The rows by version, of the newest lineage, and those that are none."""
    from control.errors import LedgerError

    rows, found = {}, []
    for kept in record.versions:
        try:
            rows[kept.version] = kept.message()
        except LedgerError as error:
            found.append(Contradiction(kept.version, "row", "a whole row", str(error), "its form"))
    return rows, found


def is_whole(record: RunRecord) -> bool:
    """Whether the ledger was there from v0 on. One that a control began anew lacks the first rows and orders."""
    if is_alone(record) and any(kept.version == 0 for kept in record.versions):
        return True  # it opens its ledger anew whenever it goes on
    return record.incarnation == 1 or any(each.incarnation == 1 for each in record.generations)


def begun_at(record: RunRecord) -> int:
    """The version that nobody made in this run: 0, or that of another run's checkpoint, where a script took one."""
    return int(record.notes.get("begun_at", 0))


def is_alone(record: RunRecord) -> bool:
    """One process without control: it keeps neither orders nor generations."""
    return not record.generations and not record.spheres


def missing(record: RunRecord, plan: Plan | None) -> Iterator[Contradiction]:
    """Versions without a row: between the first and the newest, and those that the run's end must have made."""
    held = {kept.version for kept in record.versions}
    next_one = begun_at(record) if is_whole(record) else min(held)
    for version in sorted(held):
        if version > next_one:
            which = f"rows up to version {version - 1}" if version - 1 > next_one else "a row"
            yield Contradiction(next_one, "rows", which, None, "the versions around")
        next_one = version + 1
    ended = record.status == "completed" and plan is not None and plan.max_steps > 0
    last = plan.max_steps if ended and plan is not None else -1
    last = max([last, *(closing.version for closing in record.closings.values())])
    if next_one <= last:
        which = f"rows up to version {last}" if last > next_one else "a row"
        yield Contradiction(next_one, "rows", which, None, "the run's end")
    agreed = record.status in ("completed", "stopped")
    for kept in record.versions[: None if agreed else -1]:
        if kept.state != "agreed":
            yield Contradiction(kept.version, "state", "agreed", kept.state, "the versions after it or the run's end")


def in_two_places(record: RunRecord, rows: dict[int, Row]) -> Iterator[Contradiction]:
    """What the ledger keeps of a row beside it must be what the row says; digest and check may come later than it."""
    for kept in record.versions:
        row = rows.get(kept.version)
        if row is None or (kept.lineage != row.lineage and kept.lineage < record.versions[-1].lineage):
            continue  # of an older lineage
        for name in ("version", "lineage", "learning_rate", "loss"):
            if getattr(kept, name) != getattr(row, name):
                yield Contradiction(
                    kept.version, name.replace("_", " "), getattr(row, name), getattr(kept, name), "its row"
                )
        for name in ("digest", "check"):
            if getattr(row, name) is not None and getattr(kept, name) != getattr(row, name):
                yield Contradiction(kept.version, name, getattr(row, name), getattr(kept, name), "its row")


def closed_otherwise(record: RunRecord) -> Iterator[Contradiction]:
    """A closing that names another digest than its version has."""
    digests = {kept.version: kept.digest for kept in record.versions}
    for path, closing in sorted(record.closings.items()):
        if closing.version in digests and digests[closing.version] != closing.digest:
            by = f"the closing of sphere {path}"
            yield Contradiction(closing.version, "digest", closing.digest, digests[closing.version], by)


def miscounted(record: RunRecord, rows: dict[int, Row], plan: Plan) -> Iterator[Contradiction]:
    """Each micro-batch of a step counted exactly once; a skipped step has its samples, and weighs nothing.

    What one process computed itself are all micro-batches of all attempts; a sphere's own are not more than these.
    """
    for version, row in sorted(rows.items()):
        if version == 0:
            expected = {"samples": 0, "weight": 0, "attempts": 1, "own_units": 0}
            yield from _unequal(row, expected, "what v0 is")
            continue
        if plan.counts is not None:
            samples, weight = plan.counts(version)
            yield from _unequal(row, {"samples": samples, "weight": 0 if row.skipped else weight}, "the data")
            if is_alone(record):
                yield from _unequal(row, {"own_samples": row.attempts * samples}, "its attempts and the data")
        if plan.epoch_of is not None:
            yield from _unequal(row, {"epoch": plan.epoch_of(version)}, "the data")
        most = row.attempts * plan.micro_batches
        if is_alone(record) and row.own_units != most:
            yield from _unequal(row, {"own_units": most}, "its attempts and the config")
        if len(record.generations) == 1 and row.own_units > most:
            yield Contradiction(version, "own units", f"at most {most}", row.own_units, "its attempts and the config")


def rated(record: RunRecord, rows: dict[int, Row], plan: Plan) -> Iterator[Contradiction]:
    """The schedule's factor on the base rate in force; a step that changes no weight has no rate and no loss."""
    bases = {order.number: order.learning_rate for order in record.orders}
    for version, row in sorted(rows.items()):
        if version == 0 or row.skipped:
            yield from _unequal(row, {"learning_rate": None, "loss": None}, "a row without an update")
            continue
        ordered_rate = bases.get(in_force_at(record.orders, version - 1))
        base = plan.learning_rate if ordered_rate is None else ordered_rate
        yield from _unequal(row, {"learning_rate": base * plan.factor(version)}, "the schedule")


def ordered(record: RunRecord, rows: dict[int, Row]) -> Iterator[Contradiction]:
    """A row names the newest order in force at its version, as the order's own version has it.

    While a run is paused, and where a generation begins, orders come into force after the row was written. One process
    keeps no orders: there the number only rises.
    """
    began = {each.begun_at_version for each in record.generations}
    paused = {order.number for order in record.orders if order.paused}
    before = 0
    for version, row in sorted(rows.items()):
        found, expected = row.in_force, in_force_at(record.orders, version)
        late = version in began or found in paused
        unwritten = record.status not in ("completed", "stopped") and version == record.version
        if found < before:
            yield Contradiction(version, "order in force", f"at least {before}", found, "the version before")
        elif not is_alone(record) and ((found < expected and not late) or (found > expected and not unwritten)):
            yield Contradiction(version, "order in force", expected, found, "the orders' versions")
        before = found


def in_force_at(orders: Sequence[OrderRecord], version: int) -> int:
    """The newest order that holds for the step that begins at a version; 0: none."""
    return max((each.number for each in orders if each.version is not None and each.version <= version), default=0)


def _unequal(row: Row, expected: dict[str, Any], by: str) -> Iterator[Contradiction]:
    for name, value in expected.items():
        if getattr(row, name) != value:
            yield Contradiction(row.version, name.replace("_", " "), value, getattr(row, name), by)


def replayed_otherwise(kept: VersionRecord, made: dict[str, Any]) -> Contradiction | None:
    """The first thing in which a version that was made again differs from the ledger's; None: in nothing."""
    ledger = {**kept.row, "check": kept.check, "digest": kept.digest}
    for name, value in made.items():
        absent = name in ("check", "digest") and ledger[name] is None
        if not absent and ledger.get(name) != value:
            return Contradiction(kept.version, name.replace("_", " "), value, ledger.get(name), "the replay")
    return None
