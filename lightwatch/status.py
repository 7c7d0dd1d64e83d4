"""What a trainer is doing, and the literal table of what may follow."""

from __future__ import annotations

import enum

from .errors import StateError


class TrainingStatus(enum.Enum):
    """The states of a trainer. COMPLETED is reached only by a call that made at least one version."""

    IDLE = "idle"
    INITIALIZING = "initializing"
    RUNNING = "running"
    PAUSED = "paused"
    CHECKPOINTING = "checkpointing"
    RESTORING = "restoring"
    COMPLETED = "completed"
    ERROR = "error"


_S = TrainingStatus
MOVES: dict[TrainingStatus, frozenset[TrainingStatus]] = {
    _S.IDLE: frozenset({_S.INITIALIZING, _S.CHECKPOINTING, _S.RESTORING}),
    _S.INITIALIZING: frozenset({_S.RUNNING, _S.RESTORING, _S.IDLE, _S.ERROR}),
    _S.RUNNING: frozenset({_S.PAUSED, _S.CHECKPOINTING, _S.RESTORING, _S.COMPLETED, _S.IDLE, _S.ERROR}),
    _S.PAUSED: frozenset({_S.RUNNING, _S.CHECKPOINTING, _S.RESTORING, _S.COMPLETED, _S.IDLE, _S.ERROR}),
    _S.CHECKPOINTING: frozenset({_S.RUNNING, _S.PAUSED, _S.COMPLETED, _S.IDLE, _S.ERROR}),
    _S.RESTORING: frozenset({_S.RUNNING, _S.PAUSED, _S.COMPLETED, _S.IDLE, _S.ERROR}),
    _S.COMPLETED: frozenset({_S.INITIALIZING, _S.CHECKPOINTING, _S.RESTORING}),
    _S.ERROR: frozenset({_S.INITIALIZING, _S.RESTORING}),
}


def move(now: TrainingStatus, then: TrainingStatus) -> TrainingStatus:
    """`then`, if it may follow `now`. Raises StateError, which lists what may."""
    if then not in MOVES[now]:
        legal = ", ".join(sorted(s.name for s in MOVES[now]))
        raise StateError(f"a trainer that is {now.name} can't become {then.name}; legal from here: {legal} [LW807]")
    return then
