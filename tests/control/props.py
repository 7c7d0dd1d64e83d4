"""What the world of toy spheres stands on: wires that can be cut, and what control keeps, in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from control.events import DURABLE, Event, GenerationBegun, SphereReported, VersionSettled
from control.protocol import Row
from control.status import Progress, Totals

Undo = Callable[[], None]


def put(place: Any, name: str, value: Any) -> Undo:
    """In place of what is there."""
    kept = getattr(place, name)
    setattr(place, name, value)
    return lambda: setattr(place, name, kept)


class Bad(Exception):
    """A law of the protocol was broken."""


class Wire:
    """One connection: two queues in order, each of which may be cut anywhere."""

    def __init__(self, identity: bytes) -> None:
        self.identity = identity
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.open = True


class Shelf:
    """What a Ledger stores, in memory: facts that were committed, and rows by version. It decides nothing."""

    durable = DURABLE

    def __init__(self) -> None:
        self.incarnation = 0
        self._events: list[Event] = []
        self._rows: dict[int, Row] = {}
        self._notes: dict[str, Any] = {}
        self._open: list[Event] = []

    def opened(self) -> Shelf:
        self.incarnation += 1
        self._open.clear()
        return self

    def record(self, event: Event) -> None:
        if isinstance(event, self.durable):
            self._open.append(event)

    def commit(self) -> None:
        for event in self._open:
            if isinstance(event, SphereReported):
                self._rows.setdefault(event.row.version, event.row)
            else:
                self._events.append(event)
                if isinstance(event, VersionSettled):
                    self._rows[event.row.version] = event.row
                if isinstance(event, GenerationBegun):
                    self._begun(event)
        self._open.clear()

    def _begun(self, event: GenerationBegun) -> None:
        row = self._rows.get(event.position.version)
        if row is not None and row.in_force < event.in_force:
            self._rows[row.version] = msgspec.structs.replace(row, in_force=event.in_force)
        if event.founding:
            self._rows.setdefault(0, Row(generation=event.generation, version=0, digest=event.digest))

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    def facts(self) -> list[Event]:
        return list(self._events)

    def row(self, version: int) -> Row | None:
        return self._rows.get(version)

    def newest_rows(self, count: int) -> list[Row]:
        return [self._rows[version] for version in sorted(self._rows)][-count:]

    def rows_after(self, version: int) -> list[Row]:
        return [row for _, row in sorted(self._rows.items()) if row.version > version]

    def held(self) -> int:
        return next((place for place in range(len(self._rows) + 1) if place not in self._rows), 0) - 1

    def note_totals(self, totals: dict[str, Totals]) -> None:
        self._notes["totals"] = totals

    def note_progress(self, progress: Progress) -> None:
        self._notes["progress"] = progress

    def totals(self) -> dict[str, Totals]:
        return dict(self._notes.get("totals", {}))

    def progress(self) -> Progress:
        found = self._notes.get("progress", Progress())
        assert isinstance(found, Progress)
        return found


class Pages:
    """metrics.jsonl of this world: each version once, in rising order."""

    def __init__(self, folder: Path) -> None:
        self.newest = 0

    def write(self, row: Row, micro_batches: int) -> None:
        self.newest = max(self.newest, row.version)

    def catch_up(self, rows: list[Row], micro_batches: int) -> None:
        for row in rows:
            self.write(row, micro_batches)
