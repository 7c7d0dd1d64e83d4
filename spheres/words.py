"""The trainer's words as control's, and back: one pure function for each."""

from __future__ import annotations

from collections.abc import Sequence

from control.protocol import Closed, Generation, Go, Ready, Record, Row, Stored, View
from control.protocol import Position as WirePosition
from control.status import Traffic
from lightwatch.metrics import Closing, StepReport
from lightwatch.sync import How, Position, Standing, Start, Transition


def wire_position(position: Position) -> WirePosition:
    return WirePosition(*position)


def position_of(position: WirePosition) -> Position:
    return Position(position.lineage, position.version, position.closing, position.attempt)


def packed(position: Position) -> int:
    """A position in one word of the tail, different for any two that spheres can stand at together."""
    lineage, version, closing, attempt = position
    return lineage << 48 | version << 16 | (closing & 0xFF) << 8 | attempt & 0xFF


def record_of(transition: Transition | None) -> Record | None:
    if transition is None:
        return None
    start, end = wire_position(transition.start), wire_position(transition.end)
    return Record(start=start, end=end, tail=transition.tail, paths=list(transition.paths))


def transition_of(record: Record | None) -> Transition | None:
    if record is None:
        return None
    return Transition(position_of(record.start), position_of(record.end), record.tail, tuple(record.paths))


def ready_of(
    generation: Generation, standing: Standing, *, holds_state: bool, has_v0: bool, stored: Sequence[Stored] = ()
) -> Ready:
    """The answer to a View."""
    return Ready(
        generation=generation,
        position=wire_position(standing.position),
        holds_state=holds_state,
        has_v0=has_v0,
        digest=standing.digest,
        done=list(standing.done),
        has_sums=standing.has_sums,
        in_force=standing.in_force,
        record=record_of(standing.record),
        stored=list(stored),
    )


def start_of(go: Go) -> Start:
    """What Go says of this sphere."""
    return Start(
        position_of(go.position),
        How(go.how.value),
        keep=go.keep,
        record=transition_of(go.record),
        in_force=go.in_force,
        in_force_at=dict(go.in_force_at),
        known=go.known,
        digest=go.digest,
        save=go.save,
    )


def row_of(report: StepReport, view: View, traffic: list[Traffic], round_trips: dict[str, float]) -> Row:
    """The report of a version. view: whose members the report's numbers mean."""
    members = view.members
    return Row(
        generation=view.generation, version=report.version, lineage=report.lineage, loss=report.loss,
        learning_rate=report.learning_rate,
        grad_norm=report.grad_norm, weight=report.weight, samples=report.samples, attempts=report.attempts,
        skipped=report.skipped, in_force=report.in_force, check=report.check, digest=report.digest, epoch=report.epoch,
        eval_loss=report.eval_loss, suspect=report.suspect, trouble=report.trouble, clip_ratio=report.clip_ratio,
        suspects=[members[rank].sphere for rank in report.suspects],
        slowest=members[report.slowest].path if report.slowest is not None else None, seconds=report.seconds,
        own_units=report.own_units, own_samples=report.own_samples, own_weight=report.own_weight, traffic=traffic,
        round_trips=round_trips,
    )  # fmt: skip


def closed_of(closing: Closing, generation: Generation, traffic: list[Traffic], save_s: float) -> Closed:
    """The end of a training."""
    return Closed(
        generation=generation, version=closing.version, digest=closing.digest, eval_loss=closing.eval_loss,
        eval_weight=closing.eval_weight, traffic=traffic, micro_batches=closing.micro_batches, busy_s=closing.busy_s,
        save_s=save_s, reason=closing.reason,
    )  # fmt: skip
