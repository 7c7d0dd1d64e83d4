"""What tells of a run beside its ledger: a changed figure is found, and what came later accuses nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control.metrics import metrics_line
from control.record import RunRecord
from lightwatch.cli.beside import FIGURES, metrics_otherwise, summary_otherwise
from tests.cli.test_audit import record, version


def lines_of(kept: RunRecord) -> list[dict[str, Any]]:
    """As control writes them."""
    return [json.loads(metrics_line(each.message(), 3)) for each in kept.versions if each.version]


def told(lines: list[dict[str, Any]], kept: RunRecord) -> list[str]:
    return [str(each) for each in metrics_otherwise(lines, kept)]


def test_lines_as_control_writes_them_contradict_nothing() -> None:
    """Also with a loss that is no number, which JSON has no word for."""
    kept = record(version(0), version(1, loss=float("nan")), version(2, digest="d2"), version(3))
    assert told(lines_of(kept), kept) == []


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_that_was_changed_is_named_with_its_version(name: str) -> None:
    """People plot them."""
    kept = record(version(0), version(1), version(2, digest="d2", eval_loss=1.5, grad_norm=0.5))
    lines = lines_of(kept)
    lines[1][name] = "d3" if name == "digest" else 0.125
    (line,) = told(lines, kept)
    assert line.startswith(f"version 2, {name} in metrics.jsonl: expected ") and "by the ledger" in line


def test_a_line_that_is_gone_is_missed_but_for_the_newest() -> None:
    """That of a run that goes on is written after its row."""
    kept = record(version(0), version(1), version(2))
    first, last = lines_of(kept)
    assert told([last], kept) == ["version 1, metrics.jsonl: expected a line by the ledger, found nothing"]
    assert told([first], kept) == []


def test_a_digest_that_came_after_the_line_accuses_nobody() -> None:
    kept = record(version(0), version(1, digest="d1"))
    (line,) = lines_of(kept)
    assert told([line | {"digest": None}], kept) == []


def test_a_summary_must_end_as_the_ledger_does() -> None:
    """Its digest is what is shown around. Of a run without an end the ledger doesn't know."""
    kept = record(version(0), version(1), digest="d1")
    summary = {"status": "completed", "version": 1, "digest": "d1"}
    assert list(summary_otherwise(summary, kept)) == []
    for name in summary:
        (found,) = summary_otherwise(summary | {name: "other"}, kept)
        assert str(found).startswith(f"version 1, {name} in summary.json: expected {summary[name]} by the ledger")
    unfinished = record(version(0), version(1), status="unfinished")
    assert list(summary_otherwise({"status": "failed", "version": 7, "digest": "d7"}, unfinished)) == []
