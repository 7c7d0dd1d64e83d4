"""summary.json: what a run came to, also when it failed. Absent values are null, never NaN."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, field
from typing import Any

from .rows import Row
from .settings import Settings


@dataclass(frozen=True)
class Facts:
    """How a run ended, from its ledger, or from the launcher where the ledger does not know.

    status: completed, stopped or failed. usage: the user's input is to blame. version, digest: the last one agreed.
    failures: a sentence each. fingerprint: what all spheres had in common.
    """

    status: str
    reason: str = ""
    usage: bool = False
    version: int | None = None
    digest: str | None = None
    eval_loss: float | None = None
    bytes_per_level: tuple[int, ...] = ()
    generations: int = 0
    failures: tuple[str, ...] = ()
    fingerprint: dict[str, str] = field(default_factory=dict)
    detail: str = ""
    """A traceback, for --debug."""


def summarise(settings: Settings, facts: Facts, rows: list[Row], wall_s: float) -> dict[str, Any]:
    """The whole summary, in the order in which it is written."""
    losses = [row["loss"] for row in rows if row.get("loss") is not None]
    steps_s = [row["step_s"] for row in rows if row.get("step_s")]
    version = facts.version if facts.version is not None else (rows[-1]["version"] if rows else None)
    eval_loss = facts.eval_loss
    if eval_loss is None:
        eval_loss = next((row["eval_loss"] for row in reversed(rows) if row.get("eval_loss") is not None), None)
    is_text = not settings.script
    return {
        "run_id": settings.folder.run_id,
        "status": facts.status,
        "reason": facts.reason,
        "version": version,
        "digest": facts.digest or _last_digest(rows, version),
        "steps": version,
        "micro_batches": _micro_batches(settings, facts),
        "loss_first": finite(losses[0]) if losses else None,
        "loss": finite(losses[-1]) if losses else None,
        "eval_loss": finite(eval_loss),
        "bits_per_byte": finite(eval_loss / math.log(2)) if is_text and eval_loss is not None else None,
        "zlib_bits_per_byte": settings.text.zlib_bits_per_byte if settings.text else None,
        "reduction": facts.fingerprint.get("reduction") or (settings.run.training.reduction if is_text else None),
        "tree": settings.tree,
        "spheres": len(settings.paths),
        "tokens_per_s": finite(_tokens_per_s(rows)),
        "step_ms_p50": percentile_ms(steps_s, 50),
        "step_ms_p95": percentile_ms(steps_s, 95),
        "bytes_per_level": list(facts.bytes_per_level),
        "generations": facts.generations,
        "failures": list(facts.failures),
        "seconds": seconds_spent(rows),
        "wall_s": round(wall_s, 3),
        "fingerprint": facts.fingerprint,
        "folder": str(settings.folder.path),
    }


def as_text(summary: dict[str, Any]) -> str:
    """The summary as the file holds it."""
    return json.dumps(summary, indent=2, allow_nan=False) + "\n"


def percentile_ms(steps_s: list[float], percent: int) -> float | None:
    """The nearest-rank percentile in milliseconds; None of nothing."""
    if not steps_s:
        return None
    rank = max(1, math.ceil(len(steps_s) * percent / 100))
    return round(1000 * sorted(steps_s)[rank - 1], 3)


def seconds_spent(rows: list[Row]) -> dict[str, float]:
    """Where the time of all steps went, on the sphere that reported them."""
    spent: dict[str, float] = {}
    for row in rows:
        for name, seconds in (row.get("seconds") or {}).items():
            if finite(seconds) is not None:
                spent[name] = spent.get(name, 0.0) + seconds
    return {name: round(seconds, 3) for name, seconds in spent.items()}


def finite(value: float | None) -> float | None:
    """The value, or None if it is no number."""
    return value if value is not None and math.isfinite(value) else None


def _tokens_per_s(rows: list[Row]) -> float | None:
    """Of the median step: a pause or a slow first step is no measure."""
    paces = [row["tokens"] / row["step_s"] for row in rows if row.get("step_s") and row.get("tokens")]
    return round(statistics.median(paces), 1) if paces else None


def _last_digest(rows: list[Row], version: int | None) -> str | None:
    return next((row.get("digest") for row in reversed(rows) if row.get("version") == version), None)


def _micro_batches(settings: Settings, facts: Facts) -> int | None:
    """Of a step. A script's own config is known from its fingerprint alone."""
    if not settings.script:
        return settings.run.training.micro_batches
    found = facts.fingerprint.get("config.micro_batches", "")
    return int(found) if found.isdigit() else None
