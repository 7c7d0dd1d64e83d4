"""What stands beside the ledger in a run's folder and tells of the same run: metrics.jsonl and summary.json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .audit import Contradiction, begun_at
from .rows import Row

if TYPE_CHECKING:
    from control.record import RunRecord

METRICS, SUMMARY, LEDGER = "metrics.jsonl", "summary.json", "the ledger"
FIGURES = {
    "loss": "loss",
    "lr": "learning_rate",
    "grad_norm": "grad_norm",
    "eval_loss": "eval_loss",
    "tokens": "weight",
    "samples": "samples",
    "digest": "digest",
}
"""Of a line in metrics.jsonl, and of the ledger's row. Seconds and bytes are of who reported first: nobody's law."""


def metrics_otherwise(rows: Iterable[Row], record: RunRecord) -> Iterator[Contradiction]:
    """Each version of the ledger has its line, with the same figures. A digest may have come after the line."""
    lines = {row["version"]: row for row in rows}
    for kept in record.versions:
        line = lines.get(kept.version)
        if line is None and begun_at(record) < kept.version < record.version:
            yield Contradiction(kept.version, METRICS, "a line", None, LEDGER)
        for name, field in FIGURES.items() if line is not None else ():
            expected, found = _finite(kept.row.get(field)), line.get(name)  # type: ignore[union-attr]
            if found != expected and not (name == "digest" and None in (found, expected)):
                yield Contradiction(kept.version, f"{name} in {METRICS}", expected, found, LEDGER)


def summary_otherwise(summary: dict[str, Any], record: RunRecord) -> Iterator[Contradiction]:
    """How the run ended, at which version, with which digest."""
    if record.status in ("completed", "stopped"):
        told = {"status": record.status, "version": record.version, "digest": record.digest}
        for name, expected in told.items():
            if summary.get(name) != expected:
                what = f"{name} in {SUMMARY}"
                yield Contradiction(record.version, what, expected, summary.get(name), LEDGER)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
