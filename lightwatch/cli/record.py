"""How a run on a tree ended: what its ledger says, and where that is silent, what the launcher saw."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from .folder import RunFolder
from .settings import Settings
from .summary import Facts
from .verdict import Ended

if TYPE_CHECKING:
    from control.record import RunRecord

OVER = ("completed", "stopped", "failed")
OVERRIDES = "overrides"
"""The ledger's note of what `--resume --override` changed: a list of {version, lineage, max_steps: [was, is]}."""


def is_over(folder: RunFolder) -> bool:
    """Whether the ledger holds the run's end."""
    from control.errors import LedgerError
    from control.record import read_record

    try:
        return read_record(folder.ledger).status in OVER
    except LedgerError:
        return False


def follows_its_config(folder: RunFolder) -> bool:
    """Whether its config alone gives the same weights: nothing was ordered nor overridden that changed them."""
    from control.errors import LedgerError
    from control.record import read_record

    try:
        record = read_record(folder.ledger)
    except LedgerError:
        return False
    return OVERRIDES not in record.notes and all(order.learning_rate is None for order in record.orders)


def spawns(folder: RunFolder) -> Counter[str]:
    """How often a sphere was ordered anew, by its path; nothing is said of a ledger that can't be read just now."""
    from control.errors import LedgerError
    from control.record import read_spawns

    try:
        return Counter(read_spawns(folder.ledger))
    except LedgerError:
        return Counter()


def facts_from_ledger(settings: Settings, ended: Ended, signals: tuple[int, ...]) -> Facts:
    """Read the ledger after all processes are gone. Never raises: a ledger that can't be read is a failed run."""
    from control.errors import LedgerError
    from control.record import read_record

    if ended.before_it_began:
        return Facts("stopped", f"{signal.Signals(signals[0]).name} ended the run before it began")
    try:
        record = read_record(settings.folder.ledger)
    except LedgerError as error:
        reason = ended.reason or str(error)
        return Facts("failed", reason, failures=(reason,))
    return judged(record, ended)


def judged(record: RunRecord, ended: Ended) -> Facts:
    """The ledger's word on the end, if it has one; a run without is failed, and the launcher says why."""
    closing = record.closing
    facts = Facts(
        status=record.status,
        reason=record.reason if record.status == "failed" else "",
        usage=record.usage,
        version=closing.version if closing else max(record.version, 0),
        digest=closing.digest if closing else record.digest,
        eval_loss=closing.eval_loss if closing else None,
        totals=record.totals,
        generations=len(record.generations),
        fingerprint=record.fingerprint,
        restarts=ended.restarts,
        control_restarts=ended.control_restarts,
        detail="\n".join(failure.detail for failure in record.failures if failure.detail),
    )
    if record.status not in OVER:
        return replace(facts, status="failed", reason=ended.reason, failures=_failures(record, ended.reason))
    if record.status == "failed":
        return replace(facts, failures=_failures(record, record.reason))
    return facts


def _failures(record: RunRecord, reason: str) -> tuple[str, ...]:
    """A sentence each, the one that ended the run first. That a connection closed is no news once the run is over."""
    others = [
        f"sphere {failure.path}: {failure.text}"
        for failure in record.failures
        if failure.kind != "lost" and failure.text not in reason
    ]
    return tuple(dict.fromkeys([reason, *others]))
