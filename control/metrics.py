"""One line of metrics.jsonl for one version, from the row that claimed it."""

from __future__ import annotations

import math

import msgspec

from .protocol import Row


def metrics_line(row: Row) -> bytes:
    """The row as one line of JSON with its newline. What is absent or not finite is null, never NaN.

    tokens counts targets (or samples) over all spheres; the seconds are those of the sphere that reported first.
    """
    step_s = _finite(row.seconds.get("step"))
    line = {
        "version": row.version,
        "loss": _finite(row.loss),
        "lr": _finite(row.learning_rate),
        "grad_norm": _finite(row.grad_norm),
        "tokens": row.weight,
        "samples": row.samples,
        "tokens_per_s": tokens_per_s(row),
        "step_s": step_s,
        "attempts": row.attempts,
        "skipped": row.skipped,
        "digest": row.digest,
        "epoch": row.epoch,
        "eval_loss": _finite(row.eval_loss),
        "suspect": row.suspect,
        "seconds": {name: _finite(value) for name, value in row.seconds.items()},
    }
    return msgspec.json.encode(line) + b"\n"


def tokens_per_s(row: Row) -> float | None:
    """All spheres' targets over this step's seconds."""
    step_s = _finite(row.seconds.get("step"))
    return row.weight / step_s if step_s else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
