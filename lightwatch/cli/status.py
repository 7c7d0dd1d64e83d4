"""`lightwatch status`: how a run stands, from its control while it runs and from its folder afterwards."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .costs import spoken_costs
from .record import OVER, judged
from .rows import read_rows
from .terminal import Terminal
from .verdict import Ended
from .view import spoken_s
from .where import Where, find, refuse_absent_control

if TYPE_CHECKING:
    from control.status import EpochStatus, Progress, SphereStatus, Status


def status(arguments: argparse.Namespace) -> int:
    """Ask and show. Raises ConfigError, or NoAnswer within 5 s if nobody is there."""
    terminal = Terminal(json_only=arguments.json)
    where = find(arguments)
    summary = where.summary
    if summary is not None:
        terminal.tell(spoken_summary(summary))
        terminal.emit(summary)
    elif where.address is None:
        refuse_absent_control(where)
        terminal.tell(spoken_alone(where))
        rows = read_rows(where.folder.metrics) if where.folder is not None else []
        terminal.emit({"state": "alone", "version": rows[-1]["version"] if rows else None})
    else:
        from control.client import ControlClient
        from control.errors import NoAnswer

        try:
            with ControlClient(where.target, key=where.key) as client:
                found = client.status()
            terminal.tell(spoken_status(found))
            terminal.emit(as_builtins(found))
        except NoAnswer:
            end = spoken_end(where)
            if not end:
                raise
            terminal.tell(end)
            terminal.emit({"state": "stopped", "text": end})
    return 0


def as_builtins(found: object) -> dict[str, Any]:
    """What control answered, as JSON has it; no number is infinite there."""
    from control.wire import as_json

    made = json.loads(as_json(found))
    assert isinstance(made, dict)
    return made


def spoken_end(where: Where) -> str:
    """How a run without a summary ended, by its ledger: whoever writes the summary was killed. Empty: nobody knows."""
    from control.errors import LedgerError
    from control.record import read_record

    if where.folder is None:
        return ""
    try:
        record = read_record(where.folder.ledger)
    except LedgerError:
        return ""
    return spoken_summary({"run_id": record.run_id, **vars(judged(record, Ended()))}) if record.status in OVER else ""


def spoken_summary(summary: dict[str, Any]) -> str:
    """A run that has ended."""
    lines = [f"run {summary.get('run_id')}: {summary.get('status')} at version {summary.get('version')}"]
    if summary.get("reason"):
        lines.append(str(summary["reason"]))
    for name in ("loss", "eval_loss", "bits_per_byte"):
        if summary.get(name) is not None:
            lines.append(f"{name.replace('_', ' ')} {summary[name]:.4f}")
    if summary.get("digest"):
        lines.append(f"digest {summary['digest']}")
    return "\n".join(lines)


def spoken_alone(where: Where) -> str:
    """A run of one process that has no summary: it trains, or it was killed."""
    assert where.folder is not None
    rows = read_rows(where.folder.metrics)
    last = f"version {rows[-1]['version']}" if rows else "no version yet"
    loss = f", loss {rows[-1]['loss']:.4f}" if rows and rows[-1].get("loss") is not None else ""
    return f"{where.folder.path}: one process without control; {last}{loss}; it has not ended in order so far"


def spoken_status(found: Status) -> str:
    """A run on a tree: a line for all, a line a sphere."""
    total = f"/{found.max_steps}" if found.max_steps > 0 else ""
    line = [f"run {found.run_id}: {found.state}, version {found.version}{total}"]
    if found.loss is not None:
        line.append(f"loss {found.loss:.4f}")
    if found.tokens_per_s is not None:
        line.append(f"{found.tokens_per_s:,.0f} tokens/s")
    if found.updates_per_s is not None:
        line.append(f"{found.updates_per_s:.2f} updates/s")
    if found.eta_s is not None and found.state == "running":
        line.append(f"{spoken_s(found.eta_s)} left")
    lines = [", ".join(line), f"tree {found.tree}, generation {found.generation[0]}.{found.generation[1]}"]
    if found.epoch is not None and found.epoch.micro_batches:
        lines.append(spoken_epoch(found.epoch))
    lines += spoken_progress(found.progress)
    if found.checkpoint:
        lines.append(f"newest checkpoint {found.checkpoint}, of version {found.checkpoint_version}")
    if found.alarm:
        lines.append(f"alarm: {found.alarm}")
    if found.reason:
        lines.append(found.reason)
    lines += spoken_costs(found)
    return "\n".join([*lines, *(f"  {spoken_sphere(sphere)}" for sphere in found.spheres)])


def spoken_progress(progress: Progress) -> list[str]:
    """The best losses so far, and what went wrong."""
    parts = []
    if progress.best is not None:
        parts.append(f"best loss {progress.best.value:.4f} at version {progress.best.version}")
    if progress.eval_loss is not None and progress.best_eval is not None:
        best = f"best {progress.best_eval.value:.4f} at version {progress.best_eval.version}"
        parts.append(f"eval loss {progress.eval_loss:.4f} ({best})")
    if progress.clip_ratio is not None and progress.clip_ratio < 1:
        parts.append(f"gradient clipped to {100 * progress.clip_ratio:.0f}%")
    lines = [", ".join(parts)] if parts else []
    if progress.skipped:
        why = f", the last because {progress.trouble}" if progress.trouble else ""
        lines.append(f"{progress.skipped} {'update' if progress.skipped == 1 else 'updates'} skipped{why}")
    return lines


def spoken_epoch(epoch: EpochStatus) -> str:
    """How far the current epoch is."""
    loss = f", mean loss {epoch.loss:.4f}" if epoch.loss is not None else ""
    done = f"{epoch.micro_batches:,} of {epoch.micro_batches_in_all:,} micro-batches"
    return f"epoch {epoch.number}: {done}{loss}, {spoken_s(epoch.duration_s)} in its steps"


def spoken_sphere(sphere: SphereStatus) -> str:
    """One sphere: where it stands and what it costs."""
    work = f"{sphere.units_done}/{sphere.units_dealt}" if sphere.units_dealt else "-"
    pace = f"{sphere.throughput.tokens_per_s:,.0f} tokens/s  " if sphere.throughput.tokens_per_s else ""
    waits = f"sync {100 * sphere.sync_share:.0f}%  " if sphere.sync_share is not None else ""
    silent = f"  silent for {sphere.silent_s:.1f} s" if sphere.silent_s > 2 else ""
    return (
        f"{sphere.path:<12} {sphere.phase:<10} v{sphere.version:<6} micro-batches {work:<6} "
        f"{pace}{waits}{sphere.rss_bytes / 2**20:5.0f} MiB  pid {sphere.pid} on {sphere.host}{silent}"
    )
