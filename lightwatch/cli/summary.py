"""summary.json: what a run came to, also when it failed. Absent values are null, never NaN."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import codes_in
from .rows import Row
from .settings import Settings
from .view import spoken_skip

if TYPE_CHECKING:
    from control.status import Totals

TROUBLES_TOLD = 3


@dataclass(frozen=True)
class Facts:
    """How a run ended, from its ledger, or from the launcher where the ledger does not know.

    status: completed, stopped or failed. usage: the user's input is to blame. version, digest: the last one agreed.
    totals: what each path's sphere did, as far as it is known. failures: a sentence each. fingerprint: what all
    spheres had in common.
    """

    status: str
    reason: str = ""
    usage: bool = False
    version: int | None = None
    digest: str | None = None
    eval_loss: float | None = None
    totals: dict[str, Totals] = field(default_factory=dict)
    generations: int = 0
    failures: tuple[str, ...] = ()
    fingerprint: dict[str, str] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    """How often each path's sphere was started anew, where it was."""
    control_restarts: int = 0
    detail: str = ""
    """A traceback, for --debug."""


def summarise(settings: Settings, facts: Facts, rows: list[Row], wall_s: float) -> dict[str, Any]:
    """The whole summary, in the order in which it is written.

    seconds: summed over all spheres, so `step` is their number times the time in steps. tokens_per_s is that of the
    median step, throughput that of all steps.
    """
    micro_batches = _micro_batches(settings, facts)
    losses = [row["loss"] for row in rows if row.get("loss") is not None]
    steps_s = [row["step_s"] for row in rows if row.get("step_s")]
    version = facts.version if facts.version is not None else (rows[-1]["version"] if rows else None)
    eval_loss = facts.eval_loss
    if eval_loss is None:
        eval_loss = next((row["eval_loss"] for row in reversed(rows) if row.get("eval_loss") is not None), None)
    is_text = not settings.script
    skipped = [row for row in rows if row.get("skipped")]
    return {
        "run_id": settings.folder.run_id,
        "status": facts.status,
        "reason": facts.reason,
        "version": version,
        "digest": facts.digest or _last_digest(rows, version),
        "steps": version,
        "micro_batches": micro_batches,
        "loss_first": finite(losses[0]) if losses else None,
        "loss": finite(losses[-1]) if losses else None,
        **_best("best_loss", [(row.get("loss"), row["version"]) for row in rows]),
        "eval_loss": finite(eval_loss),
        **_best("best_eval_loss", [*((row.get("eval_loss"), row["version"]) for row in rows), (eval_loss, version)]),
        "bits_per_byte": finite(eval_loss / math.log(2)) if is_text and eval_loss is not None else None,
        "zlib_bits_per_byte": settings.text.zlib_bits_per_byte if settings.text else None,
        "reduction": facts.fingerprint.get("reduction") or (settings.run.training.reduction if is_text else None),
        "tree": settings.tree,
        "spheres": len(settings.paths) or len(facts.totals),  # where none is started here: who took part
        "tokens_per_s": finite(_tokens_per_s(rows)),
        "throughput": throughput(rows, micro_batches),
        "throughput_per_sphere": {path: _paces(each) for path, each in facts.totals.items()},
        "step_ms_p50": percentile_ms(steps_s, 50),
        "step_ms_p95": percentile_ms(steps_s, 95),
        **costs(facts.totals, rows),
        "clip_ratio": _clip_ratio(rows),
        "skipped": len(skipped),
        "troubles": [spoken_skip(row) for row in skipped[:TROUBLES_TOLD]],
        "generations": facts.generations,
        "restarts": facts.restarts,
        "control_restarts": facts.control_restarts,
        "failures": list(facts.failures),
        "codes": codes_in(" ".join([facts.reason, *facts.failures])),
        "wall_s": round(wall_s, 3),
        "fingerprint": facts.fingerprint,
        "profile": _profile(settings),
        "folder": str(settings.folder.path),
    }


def _profile(settings: Settings) -> list[str] | None:
    """The files of the profile, by their place in the run's folder; None if none was asked for."""
    if not settings.profile:
        return None
    files = [settings.folder.profile / f"{path}.json" for path in settings.paths]
    return [str(file.relative_to(settings.folder.path)) for file in files if file.is_file()]


def as_text(summary: dict[str, Any]) -> str:
    """The summary as the file holds it."""
    return json.dumps(summary, indent=2, allow_nan=False) + "\n"


def percentile_ms(steps_s: list[float], percent: int) -> float | None:
    """The nearest-rank percentile in milliseconds; None of nothing."""
    if not steps_s:
        return None
    rank = max(1, math.ceil(len(steps_s) * percent / 100))
    return round(1000 * sorted(steps_s)[rank - 1], 3)


def costs(totals: dict[str, Totals], rows: list[Row]) -> dict[str, Any]:
    """Where the time of all spheres went, who was waited for, what levels and links carried.

    Where nothing was noted, the seconds are those of the spheres that were the first to report each version.
    """
    from control.delays import slowest_in_all
    from control.totals import merged

    whole = merged(totals.values())
    slowest = slowest_in_all(totals)
    waited = {path: each.held_up_s for path, each in totals.items() if each.held_up_s > 0}
    return {
        "seconds": _rounded(whole.seconds) or seconds_spent(rows),
        "seconds_per_sphere": {path: _rounded(each.seconds) for path, each in totals.items()},
        "waited_for": _rounded(dict(sorted(waited.items(), key=lambda item: -item[1]))),
        "slowest": slowest.path if slowest else None,
        "traffic": [
            {name: getattr(each, name) for name in ("level", "up", "down", "least", "states")}
            | {"ratio": _rounded_to(each.ratio)}
            for each in whole.traffic
        ],
        "links": {name: round(seconds, 6) for name, seconds in whole.round_trips.items()},
    }


def throughput(rows: list[Row], micro_batches: int | None) -> dict[str, float | None]:
    """Of the whole run, by the seconds of all its steps."""
    steps = [row for row in rows if finite(row.get("step_s"))]
    step_s = sum(row["step_s"] for row in steps)
    counts = {
        "samples": sum(row.get("samples") or 0 for row in steps),
        "tokens": sum(row.get("tokens") or 0 for row in steps),
        "micro_batches": len(steps) * micro_batches if micro_batches is not None else None,
        "updates": sum(not row.get("skipped") for row in steps),
    }
    return {f"{name}_per_s": per_s(count, step_s) for name, count in counts.items()}


def per_s(count: float | None, seconds: float) -> float | None:
    """A pace for people; None where there is none."""
    return _rounded_to(count / seconds) if count is not None and seconds > 0 else None


def seconds_spent(rows: list[Row]) -> dict[str, float]:
    """Where the time of all steps went, on the spheres that reported them first."""
    spent: dict[str, float] = {}
    for row in rows:
        for name, seconds in (row.get("seconds") or {}).items():
            if finite(seconds) is not None:
                spent[name] = spent.get(name, 0.0) + seconds
    return _rounded(spent)


def finite(value: float | None) -> float | None:
    """The value, or None if it is no number."""
    return value if value is not None and math.isfinite(value) else None


def _paces(totals: Totals) -> dict[str, float | None]:
    """One sphere's, since it came."""
    found = totals.throughput
    return {name: _rounded_to(getattr(found, name)) for name in found.__struct_fields__}


def _best(name: str, losses: list[tuple[float | None, int | None]]) -> dict[str, float | int | None]:
    """The lowest of (loss, version), the earliest of equal ones."""
    known = [(value, version) for loss, version in losses if (value := finite(loss)) is not None]
    value, version = min(known, key=lambda each: each[0], default=(None, None))
    return {name: value, f"{name}_version": version}


def _clip_ratio(rows: list[Row]) -> dict[str, float] | None:
    """What clipping left of the gradient, and how often it took something; None where nobody said."""
    ratios = [ratio for row in rows if (ratio := finite(row.get("clip_ratio"))) is not None]
    if not ratios:
        return None
    return {"median": statistics.median(ratios), "clipped": round(sum(ratio < 1 for ratio in ratios) / len(ratios), 4)}


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items() if math.isfinite(value)}


def _rounded_to(value: float | None) -> float | None:
    return round(value, 4) if value is not None and math.isfinite(value) else None


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
