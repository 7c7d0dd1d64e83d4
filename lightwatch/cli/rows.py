"""metrics.jsonl: one line a version, read while it grows and after the end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

Row = dict[str, Any]


class Tail:
    """Reads what was added to metrics.jsonl since the last look; a half written line waits for its rest.

    After a restore another file stands there, with the same beginning: what differs from the old one is new.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._rest = b""

    def read(self) -> list[Row]:
        """The new rows, in order; none if there is no file yet."""
        if self._file is None:
            try:
                self._file = self._path.open("rb")
            except FileNotFoundError:
                return []
        if _is_another(self._file, self._path):
            self._file, self._rest = _reopened(self._file, self._path), b""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [row for row in map(parse_row, lines) if row is not None]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _is_another(file: IO[bytes], path: Path) -> bool:
    try:
        return not os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _reopened(old: IO[bytes], path: Path) -> IO[bytes]:
    """The file that stands there now, read on from where it ceases to be the old one."""
    new = path.open("rb")
    old.seek(0)
    with old:
        for line in old:
            at = new.tell()
            if new.readline() != line:
                new.seek(at)
                break
    return new


def read_rows(path: Path) -> list[Row]:
    """All rows of a run, the newest of each version, in the order of versions."""
    tail = Tail(path)
    try:
        rows = {row["version"]: row for row in tail.read() if isinstance(row.get("version"), int)}
    except OSError:
        rows = {}
    finally:
        tail.close()
    return [rows[version] for version in sorted(rows)]


def bytes_up_to(path: Path, version: int) -> int:
    """How many bytes the rows of versions up to this one are. What follows is to be written anew, a torn line too."""
    size = 0
    for line in path.read_bytes().splitlines(keepends=True):
        row = parse_row(line)
        if row is None or not line.endswith(b"\n") or row.get("version", version + 1) > version:
            break
        size += len(line)
    return size


def parse_row(line: bytes) -> Row | None:
    """One line as a row; None if it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
