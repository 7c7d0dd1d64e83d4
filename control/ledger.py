"""Control's durable record, in SQLite: what was promised or learned is here before anyone hears of it.

Laws
  1. One writer: the file is locked for as long as the ledger is open, and each opening raises the incarnation.
  2. A transaction may gather several facts; `commit` comes before the messages that speak of them.
  3. Killed at any moment, it reads whole (write-ahead log). Closed, it is one file.

Cost: a row is written without waiting for the disk (a killed process loses nothing, a power cut some last rows, which
the spheres could repeat); orders, generations and the end wait for the disk, a few ms each, in the server's own thread.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from .crash import here
from .errors import LedgerError
from .events import (
    DURABLE,
    Event,
    GenerationBegun,
    GenerationProposed,
    OrderGiven,
    OrderTook,
    Remembered,
    Resumed,
    RunEnded,
    SphereClosed,
    SphereReported,
    VersionSettled,
    founding_row,
)
from .lock import locked
from .protocol import Row
from .record import NEWEST_LINEAGE, ON_THE_WAY, PROGRESS, TOTALS, UNFINISHED
from .status import Progress, Totals

SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS run(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events(
    n INTEGER PRIMARY KEY, at TEXT NOT NULL, incarnation INTEGER NOT NULL, kind TEXT NOT NULL, json TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS generations(
    incarnation INTEGER, number INTEGER, members TEXT NOT NULL, begun_at_version INTEGER,
    PRIMARY KEY (incarnation, number));
CREATE TABLE IF NOT EXISTS versions(
    lineage INTEGER, version INTEGER, learning_rate REAL, loss REAL, digest TEXT, "check" TEXT,
    state TEXT NOT NULL CHECK (state IN ('claimed', 'agreed')), row TEXT NOT NULL, PRIMARY KEY (lineage, version));
CREATE INDEX IF NOT EXISTS claimed ON versions(version) WHERE state = 'claimed';
CREATE TABLE IF NOT EXISTS orders(
    number INTEGER PRIMARY KEY, what TEXT NOT NULL, wanted TEXT NOT NULL, version INTEGER);
"""


class Ledger:
    """Open it with `Ledger.open`; close it, or use it as a context manager."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int) -> None:
        self.path = path
        self.incarnation = 0
        self._connection = connection
        self._lock = lock
        self._inside = False
        self._waits = False
        self._synchronous = ""

    @classmethod
    def open(cls, path: Path, run_id: str) -> Ledger:
        """Make or open a run's ledger, lock it, and raise its incarnation. Raises LedgerError."""
        lock = locked(path)
        try:
            connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        except sqlite3.Error as error:
            os.close(lock)
            raise LedgerError(f"ledger {path}: can't be opened: {error} [LW521]") from None
        ledger = cls(path, connection, lock)
        try:
            ledger._prepare(run_id)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _prepare(self, run_id: str) -> None:
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise LedgerError(f"ledger {self.path}: can't be used: {error} [LW521]") from None
        known = self.get("run_id")
        if known is not None and known != run_id:
            raise LedgerError(
                f"ledger {self.path}: it is of run {known!r}, not of {run_id!r}; take another folder [LW522]"
            )
        schema = self.get("schema")
        if schema is not None and schema != SCHEMA_VERSION:
            raise LedgerError(f"ledger {self.path}: its form is {schema}, this program's is {SCHEMA_VERSION} [LW522]")
        self.incarnation = int(self.get("incarnation") or 0) + 1
        self._begin(wait_for_disk=True)
        self._set("run_id", run_id)
        self._set("schema", SCHEMA_VERSION)
        self._set("incarnation", self.incarnation)
        self.commit()

    # ---------------------------------------------------------------- facts

    def record(self, event: Event) -> None:
        """Put a durable event into the open transaction; it is safe after `commit`. Others are ignored."""
        if isinstance(event, SphereReported):
            self._begin(wait_for_disk=False)
            self._row(event.row)
        elif isinstance(event, DURABLE):
            self._begin(wait_for_disk=True)
            self._execute(
                "INSERT INTO events(at, incarnation, kind, json) VALUES (?, ?, ?, ?)",
                (now_utc(), self.incarnation, type(event).__name__, msgspec.json.encode(event).decode()),
            )
            self._tables(event)

    def record_row(self, row: Row) -> None:
        """A version of a run without control: claimed now, agreed by the next one's row."""
        self._begin(wait_for_disk=False)
        self._row(row)
        self.commit()

    def end(self, status: str, reason: str, usage: bool = False) -> None:
        """How a run without control ended: completed, stopped or failed. Unless it failed, its last row is agreed."""
        self._begin(wait_for_disk=True)
        self._ended(status, reason, usage)
        if status != "failed":
            self._execute("UPDATE versions SET state = 'agreed'", ())
        self.commit()

    def obeyed_from(self, version: int, *, all_later: bool) -> None:
        """From here on a process without control obeys what was not obeyed yet: orders that were in force nowhere, and
        with `all_later` those of versions that are left behind."""
        self._begin(wait_for_disk=True)
        self._execute(
            "UPDATE orders SET version = ? WHERE version IS NULL OR (? AND version > ?)", (version, all_later, version)
        )
        self.commit()

    def set(self, key: str, value: Any) -> None:
        """Note something of the run as JSON: `tree`, `fingerprint`, `micro_batches`, `max_steps`, what else helps."""
        self._begin(wait_for_disk=False)
        self._set(key, value)
        self.commit()

    def note_totals(self, totals: dict[str, Totals]) -> None:
        """Note what each path's spheres have done so far, in place of the last such note."""
        self.set(TOTALS, totals)

    def note_progress(self, progress: Progress) -> None:
        """Note the best and last figures of all versions so far, in place of the last such note."""
        self.set(PROGRESS, progress)

    # ---------------------------------------------------------------- read back, by a control that starts anew

    def facts(self) -> Iterator[Event]:
        """All that happened, in order, but for the versions' rows. Raises LedgerError."""
        kinds: dict[str, type[Any]] = {kind.__name__: kind for kind in DURABLE}
        for kind, text in self._execute("SELECT kind, json FROM events ORDER BY n", ()).fetchall():
            try:
                event: Event = msgspec.json.decode(text, type=kinds[kind])
            except (KeyError, msgspec.MsgspecError) as error:
                raise LedgerError(f"ledger {self.path}: a {kind} in it can't be read: {error} [LW521]") from None
            yield event

    def row(self, version: int) -> Row | None:
        """The row of a version of the newest lineage, as it stands."""
        found = self._execute(
            f"SELECT row, digest FROM versions WHERE version = ? AND {ON_THE_WAY}", (version,)
        ).fetchone()
        return self._as_row(*found) if found else None

    def newest_rows(self, count: int) -> list[Row]:
        """The last rows, the oldest first."""
        found = self._execute(
            f"SELECT row, digest FROM versions WHERE {ON_THE_WAY} ORDER BY version DESC LIMIT ?", (count,)
        )
        return [self._as_row(text, digest) for text, digest in reversed(found.fetchall())]

    def rows_after(self, version: int) -> list[Row]:
        """The rows of all later versions, in order."""
        found = self._execute(
            f"SELECT row, digest FROM versions WHERE version > ? AND {ON_THE_WAY} ORDER BY version", (version,)
        )
        return [self._as_row(text, digest) for text, digest in found.fetchall()]

    def held(self) -> int:
        """The highest version without a gap below it; -1 for none."""
        versions = [
            version
            for (version,) in self._execute(f"SELECT version FROM versions WHERE {ON_THE_WAY} ORDER BY version", ())
        ]
        return next((place for place, version in enumerate(versions) if place != version), len(versions)) - 1

    def first_with(self, number: int) -> int | None:
        """The first version from which on this order was in force, as the rows have it."""
        found = self._execute(
            f"SELECT min(version) FROM versions WHERE json_extract(row, '$.in_force') >= ? AND {ON_THE_WAY}", (number,)
        ).fetchone()
        return int(found[0]) if found and found[0] is not None else None

    def obeyed_at(self) -> dict[int, int | None]:
        """Order -> from which version on it was in force; None: not yet."""
        return dict(self._execute("SELECT number, version FROM orders", ()).fetchall())

    def lineage(self) -> tuple[int, int]:
        """The newest, and the version at which it began."""
        lineage, version = self._execute(NEWEST_LINEAGE, ()).fetchone()
        return (lineage, version) if lineage else (0, 0)

    def totals(self) -> dict[str, Totals]:
        """By path, as they were noted last."""
        return msgspec.convert(self.get(TOTALS) or {}, dict[str, Totals])

    def progress(self) -> Progress:
        """As it was noted last."""
        return msgspec.convert(self.get(PROGRESS) or {}, Progress)

    def _as_row(self, text: str, digest: str | None) -> Row:
        try:
            row = msgspec.json.decode(text, type=Row)
        except msgspec.MsgspecError as error:
            raise LedgerError(f"ledger {self.path}: a version in it can't be read: {error} [LW521]") from None
        return row if digest is None or row.digest == digest else msgspec.structs.replace(row, digest=digest)

    def get(self, key: str) -> Any:
        """What was noted under `key`, or None."""
        found = self._execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone()
        return json.loads(found[0]) if found else None

    def commit(self) -> None:
        """Everything recorded so far survives this process."""
        if self._inside:
            self._inside = False
            here("control.before_commit")
            try:
                self._execute("COMMIT", ())
            except LedgerError:
                if self._connection.in_transaction:
                    self._connection.rollback()
                raise
            here("control.after_commit")

    def close(self) -> None:
        """Commit, fold the log into the one file, unlock. A second call does nothing; a full disk is logged."""
        if self._lock < 0:
            return
        try:
            self.commit()
        except LedgerError as error:
            logging.getLogger("control").error("%s", error)
        finally:
            self._connection.close()
            os.close(self._lock)  # After SQLite's: closing any descriptor of the file drops the process' own locks.
            self._lock = -1

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---------------------------------------------------------------- tables

    def _tables(self, event: Event) -> None:
        match event:
            case GenerationProposed(generation=(incarnation, number), members=members):
                paths = json.dumps([member.path for member in members])
                self._execute(
                    "INSERT OR IGNORE INTO generations(incarnation, number, members) VALUES (?, ?, ?)",
                    (incarnation, number, paths),
                )
            case GenerationBegun(generation=(incarnation, number), position=position):
                self._execute(
                    "UPDATE generations SET begun_at_version = ? WHERE incarnation = ? AND number = ?",
                    (position.version, incarnation, number),
                )
                self._execute(
                    "UPDATE versions SET row = json_set(row, '$.in_force', ?) "
                    "WHERE lineage = ? AND version = ? AND coalesce(json_extract(row, '$.in_force'), 0) < ?",
                    (event.in_force, position.lineage, position.version, event.in_force),
                )
                rises = position.lineage > self.lineage()[0]
                if rises:
                    self._execute("UPDATE orders SET version = min(version, ?)", (position.version,))
                if event.founding or rises:
                    self._row(founding_row(event), "agreed")
                if event.founding and position.version and self.get("begun_at") is None:
                    self._set("begun_at", position.version)
            case OrderGiven(wanted=wanted, what=what):
                self._execute(
                    "INSERT INTO orders(number, what, wanted) VALUES (?, ?, ?)",
                    (wanted.number, what, msgspec.json.encode(wanted).decode()),
                )
            case OrderTook(number=number, version=version):
                self._execute("UPDATE orders SET version = ? WHERE number <= ? AND version IS NULL", (version, number))
            case SphereClosed(closed=closed):
                self._execute(
                    "UPDATE versions SET state = 'agreed', digest = coalesce(digest, ?) "
                    f"WHERE version = ? AND {ON_THE_WAY}",
                    (closed.digest, closed.version),
                )
            case VersionSettled(row=row):
                check = None if row.check is None else str(row.check)
                self._execute(
                    'UPDATE versions SET digest = ?, "check" = ?, row = ? WHERE lineage = ? AND version = ?',
                    (row.digest, check, msgspec.json.encode(row).decode(), row.lineage, row.version),
                )
            case Remembered(incarnation=incarnation):
                self.incarnation = incarnation
                self._set("incarnation", incarnation)
            case RunEnded():
                self._ended(event.status, event.reason, event.usage)
            case Resumed(orders=orders):
                for wanted, what, at in orders:
                    values = (wanted.number, what, msgspec.json.encode(wanted).decode(), at)
                    self._execute("INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?)", values)
                unsaid = dict.fromkeys(("fingerprint", "micro_batches", "max_steps"))  # of one process, before
                for key, value in {"status": UNFINISHED, "reason": "", "usage": False, **unsaid}.items():
                    self._set(key, value)
            case _:
                pass

    def _row(self, row: Row, state: str = "claimed") -> None:
        text = msgspec.json.encode(row).decode()
        check = None if row.check is None else str(row.check)
        values = (_real(row.learning_rate), _real(row.loss), row.digest, check, state, text)
        self._execute(
            "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(lineage, version) "
            'DO UPDATE SET digest = coalesce(digest, excluded.digest), "check" = coalesce("check", excluded."check")',
            (row.lineage, row.version, *values),
        )
        self._execute(
            "UPDATE versions SET state = 'agreed' WHERE version < ? AND lineage <= ? AND state = 'claimed'",
            (row.version, row.lineage),
        )

    def _ended(self, status: str, reason: str, usage: bool) -> None:
        for key, value in (("status", status), ("reason", reason), ("usage", usage), ("ended_at", now_utc())):
            self._set(key, value)

    def _set(self, key: str, value: Any) -> None:
        text = msgspec.json.encode(value).decode()
        self._execute("INSERT OR REPLACE INTO run(key, value) VALUES (?, ?)", (key, text))

    # ---------------------------------------------------------------- SQLite

    def _begin(self, wait_for_disk: bool) -> None:
        if self._inside and wait_for_disk and not self._waits:
            self.commit()
        if not self._inside:
            level = "FULL" if wait_for_disk else "NORMAL"
            if level != self._synchronous:
                self._execute(f"PRAGMA synchronous={level}", ())
                self._synchronous = level
            self._execute("BEGIN IMMEDIATE", ())
            self._inside, self._waits = True, wait_for_disk

    def _execute(self, sql: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        try:
            return self._connection.execute(sql, values)
        except sqlite3.Error as error:
            raise LedgerError(f"ledger {self.path}: {error}; is the disk full? [LW601]") from None


def now_utc() -> str:
    """This moment for people; nothing is decided by it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _real(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
