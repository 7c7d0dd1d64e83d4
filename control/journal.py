"""metrics.jsonl: a line a version, each version once, whatever died while it was written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from .metrics import metrics_line
from .protocol import Row

NAME = "metrics.jsonl"


class Journal:
    """Appends to a run's metrics.jsonl. Opened again it goes on where the file ends. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.newest = self._mend()

    def write(self, row: Row, micro_batches: int) -> None:
        """The version's line, unless it, or a later one, is there."""
        if row.version > self.newest:
            with open(self.path, "ab") as file:
                file.write(metrics_line(row, micro_batches))
            self.newest = row.version

    def catch_up(self, rows: Iterable[Row], micro_batches: int) -> None:
        """Lines for what the ledger holds and the file does not."""
        for row in rows:
            if row.version > 0:
                self.write(row, micro_batches)

    def cut_back(self, version: int) -> None:
        """Nothing is told of later versions: they are made anew, in another lineage. Whole or not at all."""
        if version >= self.newest:
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        aside = self.path.with_name(f".{NAME}.{os.getpid()}")
        with open(aside, "wb") as file:
            file.writelines(line for line in lines if int(json.loads(line)["version"]) <= version)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self.path)
        self.newest = version

    def _mend(self) -> int:
        """Cut off a line that a death left unfinished; the last version in the file, 0 for none."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return 0
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            with open(self.path, "r+b") as file:
                file.truncate(len(whole))
        lines = whole.splitlines()
        return int(json.loads(lines[-1])["version"]) if lines else 0
