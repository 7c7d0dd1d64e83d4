"""What a run left behind about versions and losses: the spheres' own records, and the ledger's events with times."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from .folder import RunFolder
from .rows import Row, Tail

Generation = tuple[int, int]
NAMES_A_LOSS = ("SphereCame", "SphereLost", "SphereExpelled", "GenerationProposed")


@dataclass(frozen=True)
class Made:
    """A sphere came to hold a version. at: unix seconds; how: tail, record, fetch, load; units: of its own, for it."""

    path: str
    at: float
    pid: int
    version: int
    generation: Generation
    how: str
    units: int = 0
    attempts: int = 1


@dataclass(frozen=True)
class Noted:
    """An event of the ledger. at: unix seconds, when control wrote it."""

    at: float
    kind: str
    event: dict[str, Any]


class Makers:
    """Follows versions.jsonl of all spheres while they are written, also of those that come later."""

    def __init__(self, folder: RunFolder) -> None:
        self._root = folder.path / "spheres"
        self._tails: dict[str, Tail] = {}
        self.last: dict[str, Made] = {}
        """By path: the newest line."""

    @property
    def version(self) -> int:
        """The newest that anyone came to hold; -1: none."""
        return max((made.version for made in self.last.values()), default=-1)

    def read(self, paths: list[str]) -> list[Made]:
        """The new lines of these spheres, each sphere's in order."""
        found = []
        for path in paths:
            tail = self._tails.setdefault(path, Tail(self._root / path / "versions.jsonl"))
            lines = [made for row in tail.read() if (made := made_from(path, row)) is not None]
            if lines:
                self.last[path] = lines[-1]
            found += lines
        return found

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()


def made_from(path: str, row: Row) -> Made | None:
    """A line of versions.jsonl; None if it is none."""
    try:
        first, second = row["generation"]
        return Made(
            path=path,
            at=float(row["at"]),
            pid=int(row["pid"]),
            version=int(row["version"]),
            generation=(int(first), int(second)),
            how=str(row["how"]),
            units=int(row.get("units") or 0),
            attempts=int(row.get("attempts") or 1),
        )
    except (KeyError, TypeError, ValueError):
        return None


def read_made(folder: RunFolder) -> list[Made]:
    """All lines of all spheres, in the order of time."""
    root = folder.path / "spheres"
    makers = Makers(folder)
    try:
        paths = [str(file.parent.relative_to(root)) for file in root.rglob("versions.jsonl")]
        return sorted(makers.read(paths), key=lambda made: made.at)
    finally:
        makers.close()


def read_noted(ledger: Path) -> list[Noted]:
    """The ledger's events of who came, who was lost, which generations were called; none without a ledger."""
    if not ledger.is_file():
        return []
    with closing(sqlite3.connect(f"{ledger.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
        return list(_events(connection))


def _events(connection: sqlite3.Connection) -> Iterator[Noted]:
    try:
        marks = ", ".join("?" * len(NAMES_A_LOSS))
        found = connection.execute(
            f"SELECT at, kind, json FROM events WHERE kind IN ({marks}) ORDER BY n", NAMES_A_LOSS
        )
        for at, kind, text in found:
            yield Noted(datetime.fromisoformat(at).timestamp(), kind, json.loads(text))
    except sqlite3.Error:  # a ledger that can't be read is told by the run itself
        return


def read_checks(ledger: Path) -> dict[int, str]:
    """By version: the check over its weights, from the ledger; empty where it can't be read."""
    if not ledger.is_file():
        return {}
    with closing(sqlite3.connect(f"{ledger.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as connection:
        try:
            rows = connection.execute('SELECT version, "check" FROM versions WHERE "check" IS NOT NULL').fetchall()
        except sqlite3.Error:
            return {}
    return dict(rows)
