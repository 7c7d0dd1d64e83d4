"""What a ledger says about a run, for whoever reads it afterwards, or beside the writer. Nothing is changed."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from .errors import LedgerError
from .protocol import Closed, Row
from .status import Totals

PROGRESS = "progress"
"""The note that holds the best and last figures: a Progress."""

TOTALS = "totals"
"""The note that holds what each path's spheres have done: a dict of path -> Totals."""

UNFINISHED = "unfinished"

ON_THE_WAY = """NOT EXISTS (
    SELECT 1 FROM versions AS newer WHERE newer.lineage > versions.lineage AND newer.version < versions.version)
AND NOT EXISTS (
    SELECT 1 FROM versions AS older WHERE older.lineage < versions.lineage AND older.version = versions.version
    AND older.version = (SELECT min(own.version) FROM versions AS own WHERE own.lineage = versions.lineage))"""
"""The rows that led to the newest. Those of a lineage above the version at which a later one began are history; and the
version with which that one began has a row of how it was made, in the older one."""

NEWEST_LINEAGE = "SELECT lineage, min(version) FROM versions WHERE lineage = (SELECT max(lineage) FROM versions)"


@dataclass(frozen=True)
class VersionRecord:
    version: int
    lineage: int
    learning_rate: float | None
    loss: float | None
    digest: str | None
    check: int | None
    state: str
    """claimed by one sphere, or agreed by a tail."""
    row: dict[str, Any]
    """All fields of the protocol's Row."""

    def message(self) -> Row:
        """The row as it was sent. Raises LedgerError if it is none any more."""
        try:
            return msgspec.convert(self.row, Row)
        except msgspec.ValidationError as error:
            raise LedgerError(f"the row of version {self.version} can't be read: {error} [LW521]") from None


@dataclass(frozen=True)
class GenerationRecord:
    incarnation: int
    number: int
    members: list[str]
    begun_at_version: int | None
    """None: proposed, and nobody was told to go."""


@dataclass(frozen=True)
class OrderRecord:
    number: int
    what: str
    learning_rate: float | None
    version: int | None
    """From which it was in force; None: it never was."""
    paused: bool = False
    """Whether the run was to be paused once it was in force."""


@dataclass(frozen=True)
class CheckpointRecord:
    """One that was whole on the disk when control heard of it. folder: its name."""

    folder: str
    version: int
    lineage: int
    digest: str
    manifest_sha256: str
    bytes: int


@dataclass(frozen=True)
class FailureRecord:
    """kind: failed (said so itself), refused, or lost (its connection closed)."""

    path: str
    kind: str
    text: str
    usage: bool = False
    detail: str = ""


@dataclass(frozen=True)
class RunRecord:
    """The whole run. status: completed, stopped, failed; unfinished if control died before it wrote an end."""

    run_id: str
    status: str
    reason: str
    usage: bool
    """The user's input is to blame."""
    incarnation: int
    version: int
    """The newest in the ledger; -1: none."""
    digest: str | None
    """Of the weights at `version`, where known."""
    versions: list[VersionRecord]
    generations: list[GenerationRecord]
    orders: list[OrderRecord]
    closings: dict[str, Closed]
    """By path."""
    failures: list[FailureRecord]
    fingerprint: dict[str, str]
    micro_batches: int | None
    max_steps: int | None
    spheres: dict[str, dict[str, Any]]
    """By path: sphere, pid, host, address."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Everything that was noted with `Ledger.set`, and what control notes itself."""
    checkpoints: list[CheckpointRecord] = field(default_factory=list)
    """All that were ever whole, in order; some are pruned by now."""
    lineage: int = 0
    """The newest; `versions` are those that led to it."""
    lineage_began_at: int = 0

    @property
    def totals(self) -> dict[str, Totals]:
        """By path, as control last noted them: at the end, and every few seconds before."""
        return msgspec.convert(self.notes.get(TOTALS, {}), dict[str, Totals])

    @property
    def closing(self) -> Closed | None:
        """The first sphere's closing, by path; all are equal in version and digests if the run did not fail."""
        return self.closings[min(self.closings)] if self.closings else None


def read_record(path: Path) -> RunRecord:
    """Read `ledger.db`; also after its writer was killed, and while it still writes. Raises LedgerError."""
    if not path.is_file():
        raise LedgerError(f"ledger {path}: there is no such file [LW521]")
    try:
        with closing(_connected(path)) as connection:
            return _read(connection)
    except (sqlite3.Error, KeyError, ValueError, msgspec.MsgspecError) as error:
        raise LedgerError(f"ledger {path}: can't be read: {error} [LW521]") from None


def read_spawns(path: Path) -> dict[str, int]:
    """How often a sphere was ordered anew, by its path. Cheap, for it is asked often. Raises LedgerError."""
    try:
        with closing(_connected(path)) as connection:
            return dict(
                connection.execute(
                    "SELECT json_extract(json, '$.text') AS path, count(*) FROM events WHERE kind = 'OrderGiven' "
                    "AND json_extract(json, '$.what') = 'spawn' GROUP BY path"
                )
            )
    except sqlite3.Error as error:
        raise LedgerError(f"ledger {path}: can't be read: {error} [LW521]") from None


def _connected(path: Path) -> sqlite3.Connection:
    """A killed writer leaves its log beside the file: reading it needs a connection that may write, if the folder lets
    us; that also folds the log in. In a folder that can't be written the file is read as it is."""
    uri = path.resolve().as_uri()
    connection = sqlite3.connect(uri + "?mode=rw", uri=True, timeout=5.0, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM run").fetchone()
        connection.execute("BEGIN")
        return connection
    except sqlite3.OperationalError:
        connection.close()
        return sqlite3.connect(uri + "?mode=ro&immutable=1", uri=True, isolation_level=None)
    except BaseException:
        connection.close()
        raise


def _read(connection: sqlite3.Connection) -> RunRecord:
    notes = {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM run")}
    events = [(kind, json.loads(text)) for kind, text in connection.execute("SELECT kind, json FROM events ORDER BY n")]
    versions = _versions(connection)
    checkpoints = [_checkpoint(event) for kind, event in events if kind == "CheckpointSaved"]
    resumed = max((place for place, (kind, _) in enumerate(events) if kind == "Resumed"), default=-1)
    past, events = events[: resumed + 1], events[resumed + 1 :]
    lineage, began_at = max(_lineage(past, events), _newest_lineage(connection))
    paths = {event["sphere"]: event["hello"]["path"] for kind, event in events if kind == "SphereCame"}
    closings = {
        paths[event["sphere"]]: msgspec.convert(event["closed"], Closed)
        for kind, event in events
        if kind == "SphereClosed"
    }
    proofs = [event["proof"] for kind, event in events if kind == "SphereProved"]
    proof: dict[str, Any] = proofs[0] if proofs else {}
    newest = versions[-1] if versions else None
    return RunRecord(
        run_id=notes.get("run_id", ""),
        status=notes.get("status", UNFINISHED),
        reason=notes.get("reason", ""),
        usage=bool(notes.get("usage", False)),
        incarnation=notes.get("incarnation", 0),
        version=newest.version if newest else -1,
        digest=newest.digest if newest else None,
        versions=versions,
        generations=[
            GenerationRecord(incarnation, number, json.loads(members), begun)
            for incarnation, number, members, begun in connection.execute(
                "SELECT incarnation, number, members, begun_at_version FROM generations ORDER BY incarnation, number"
            )
        ],
        orders=[
            OrderRecord(number, what, wanted.get("learning_rate"), version, bool(wanted.get("paused")))
            for number, what, text, version in connection.execute(
                "SELECT number, what, wanted, version FROM orders ORDER BY number"
            )
            for wanted in [json.loads(text)]
        ],
        closings=closings,
        failures=_failures(events, paths),
        fingerprint=notes.get("fingerprint") or proof.get("fingerprint", {}),
        micro_batches=notes.get("micro_batches") or proof.get("micro_batches"),
        max_steps=notes.get("max_steps") or proof.get("max_steps"),
        spheres={
            event["hello"]["path"]: {"sphere": event["sphere"]}
            | {name: event["hello"].get(name) for name in ("pid", "host", "address")}
            for kind, event in events
            if kind == "SphereCame"
        },
        notes=notes,
        checkpoints=checkpoints,
        lineage=lineage,
        lineage_began_at=began_at,
    )


def _checkpoint(event: dict[str, Any]) -> CheckpointRecord:
    stored = event["stored"]
    return CheckpointRecord(
        stored["name"], stored["version"], stored["lineage"], stored["digest"], event["manifest_sha256"], event["bytes"]
    )


def _lineage(past: list[tuple[str, dict[str, Any]]], events: list[tuple[str, dict[str, Any]]]) -> tuple[int, int]:
    """The newest, and the version at which it began, as facts have it: it may have no row yet."""
    told = [(event["lineage"], event["origin"]) for kind, event in past if kind == "Resumed"]
    begun = [event["position"] for kind, event in events if kind == "GenerationBegun" and event.get("load")]
    newest = max((position[0] for position in begun), default=0)
    first = [(newest, position[1]) for position in begun if position[0] == newest]
    return max([(0, 0), *told[-1:], *first[:1]])


def _newest_lineage(connection: sqlite3.Connection) -> tuple[int, int]:
    """The same, as rows have it."""
    lineage, version = connection.execute(NEWEST_LINEAGE).fetchone()
    return (lineage, version) if lineage else (0, 0)


def _versions(connection: sqlite3.Connection) -> list[VersionRecord]:
    rows = connection.execute(
        'SELECT version, lineage, learning_rate, loss, digest, "check", state, row FROM versions '
        f"WHERE {ON_THE_WAY} ORDER BY version"
    )
    return [
        VersionRecord(version, lineage, rate, loss, digest, int(check) if check else None, state, json.loads(text))
        for version, lineage, rate, loss, digest, check, state, text in rows
    ]


def _failures(events: list[tuple[str, dict[str, Any]]], paths: dict[int, str]) -> list[FailureRecord]:
    failures = []
    for kind, event in events:
        if kind == "SphereFailed":
            failed = event["failed"]
            failures.append(
                FailureRecord(
                    path=paths[event["sphere"]],
                    kind="failed",
                    text=failed["text"],
                    usage=failed.get("usage", False),
                    detail=failed.get("detail", ""),
                )
            )
        elif kind == "SphereRefused":
            failures.append(FailureRecord(paths[event["sphere"]], "refused", event["text"], usage=True))
        elif kind == "SphereLost":
            failures.append(FailureRecord(paths[event["sphere"]], "lost", "its connection closed"))
    return failures
