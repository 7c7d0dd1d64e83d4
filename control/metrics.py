"""One line of metrics.jsonl for one version, from the row that claimed it."""

from __future__ import annotations

import math

import msgspec

from .protocol import Row


def metrics_line(row: Row, micro_batches: int) -> bytes:
    """The row as one line of JSON with its newline. What is absent or not finite is null, never NaN.

    tokens counts targets (or samples) over all spheres, and so do the numbers per second; the seconds are those of the
    sphere that reported first. micro_batches: of a step, of the whole run.
    """
    step_s = _finite(row.seconds.get("step"))
    line = {
        "version": row.version,
        "loss": _finite(row.loss),
        "lr": _finite(row.learning_rate),
        "grad_norm": _finite(row.grad_norm),
        "tokens": row.weight,
        "samples": row.samples,
        "tokens_per_s": _per_s(row.weight, step_s),
        "samples_per_s": _per_s(row.samples, step_s),
        "micro_batches_per_s": _per_s(micro_batches, step_s),
        "step_s": step_s,
        "attempts": row.attempts,
        "skipped": row.skipped,
        "trouble": row.trouble,
        "clip_ratio": _finite(row.clip_ratio),
        "slowest": row.slowest,
        "digest": row.digest,
        "epoch": row.epoch,
        "eval_loss": _finite(row.eval_loss),
        "suspect": row.suspect,
        "seconds": {name: _finite(value) for name, value in row.seconds.items()},
    }
    return msgspec.json.encode(line) + b"\n"


def _per_s(count: int, step_s: float | None) -> float | None:
    return _finite(count / step_s) if step_s else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
