"""The disk under a control: the shipped ledger over SQLite in memory, and the shipped journal's file.

A crash may strike before or after any statement that writes. What was not committed is gone then; after a power cut so
is what was committed without waiting for the disk, and a line of the journal may be torn.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from control.journal import NAME
from control.ledger import Ledger

READS = ("SELECT", "PRAGMA")
SHM = Path("/dev/shm")


class Connection:
    """SQLite's, which tells of each statement that writes before and after it is done."""

    def __init__(self, disk: Disk, connection: sqlite3.Connection) -> None:
        self._disk = disk
        self._connection = connection
        self._waits = False

    def execute(self, sql: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        if sql.startswith("PRAGMA"):
            self._waits = "FULL" in sql
            return self._connection.execute(sql)
        if sql.startswith(READS):
            return self._connection.execute(sql, values)
        self._disk.strikes()
        cursor = self._connection.execute(sql, values)
        if sql == "COMMIT" and self._waits:
            self._disk.synced()
        self._disk.strikes()
        return cursor

    def executescript(self, sql: str) -> sqlite3.Cursor:
        return self._connection.executescript(sql)

    def rollback(self) -> None:
        self._connection.rollback()

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def close(self) -> None:
        pass


class Disk:
    """One folder of a run. strikes: called around each write; a crash is what it raises. may_cut: keep what a power cut
    would leave."""

    def __init__(self, strikes: Callable[[], None], may_cut: bool) -> None:
        self.strikes = strikes
        self.folder = Path(tempfile.mkdtemp(prefix="lightwatch-sim-", dir=SHM if SHM.is_dir() else None))
        self._sqlite = sqlite3.connect(":memory:", isolation_level=None)
        self._may_cut = may_cut
        self._safe: bytes | None = None

    def opened(self) -> Ledger:
        """The ledger as the next control finds it."""
        ledger = Ledger(Path("ledger.db"), cast(sqlite3.Connection, Connection(self, self._sqlite)), -1)
        ledger._prepare("run")
        return ledger

    def count(self, kind: str) -> int:
        """How many facts of this kind are written."""
        if not self._sqlite.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone():
            return 0
        return int(self._sqlite.execute("SELECT count(*) FROM events WHERE kind = ?", (kind,)).fetchone()[0])

    @property
    def is_open(self) -> bool:
        """Whether something was written and not committed."""
        return self._sqlite.in_transaction

    def synced(self) -> None:
        if self._may_cut:
            self._safe = self._sqlite.serialize()

    def crash(self) -> None:
        """What a killed process leaves."""
        if self._sqlite.in_transaction:
            self._sqlite.rollback()

    def cut_power(self) -> None:
        """What a machine that went dark leaves."""
        self.crash()
        if self._safe is not None:
            self._sqlite.deserialize(self._safe)

    @property
    def metrics(self) -> bytes:
        """The journal as it stands."""
        path = self.folder / NAME
        return path.read_bytes() if path.exists() else b""

    def tear(self, chance: random.Random) -> None:
        """The last line was being written when the process died: it ends somewhere in the middle."""
        text = self.metrics
        begin = text.rfind(b"\n", 0, len(text) - 1) + 1
        (self.folder / NAME).write_bytes(text[: chance.randrange(begin, len(text))])

    def close(self) -> None:
        self._sqlite.close()
        shutil.rmtree(self.folder, ignore_errors=True)
