"""Facts, in the past tense. Only facts change the state; each is a value, and a durable one is in the ledger before
anyone hears of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from .protocol import (
    Beat,
    Closed,
    Failed,
    Generation,
    Hello,
    How,
    Member,
    Memory,
    Position,
    Proof,
    Ready,
    Record,
    Row,
    ToSphere,
    Wanted,
)

# ---------------------------------------------------------------- from spheres


@dataclass(frozen=True, kw_only=True)
class SphereCame:
    """key: that its connection has proved; the seat is that machine's. Empty in a run without keys."""

    sphere: int
    hello: Hello
    at_s: float
    key: str = ""


@dataclass(frozen=True, kw_only=True)
class SphereReturned:
    """Its connection broke and stands again; it is the same process."""

    sphere: int
    at_s: float


@dataclass(frozen=True, kw_only=True)
class SphereLost:
    """Its connection closed. It may come back; `plan` waits a moment before it says so."""

    sphere: int
    at_s: float


@dataclass(frozen=True, kw_only=True)
class SphereProved:
    sphere: int
    proof: Proof
    at_s: float


@dataclass(frozen=True, kw_only=True)
class SphereRefused:
    """An expected sphere can't take part, so the run can't begin."""

    sphere: int
    text: str
    at_s: float


@dataclass(frozen=True, kw_only=True)
class SphereBeat:
    sphere: int
    beat: Beat
    at_s: float


@dataclass(frozen=True, kw_only=True)
class SphereReady:
    sphere: int
    ready: Ready
    at_s: float


@dataclass(frozen=True, kw_only=True)
class SphereReported:
    """known: what the ledger holds of that version, where it is older than what control keeps in mind."""

    sphere: int
    row: Row
    at_s: float
    known: Row | None = None


@dataclass(frozen=True, kw_only=True)
class SphereClosed:
    sphere: int
    closed: Closed
    at_s: float


@dataclass(frozen=True, kw_only=True)
class SphereFailed:
    sphere: int
    failed: Failed
    at_s: float


@dataclass(frozen=True, kw_only=True)
class SphereExpelled:
    """It is stuck, silent or sick: whatever it says from now on counts for nothing. A successor is welcome."""

    sphere: int
    text: str
    at_s: float


@dataclass(frozen=True, kw_only=True)
class SphereBarred:
    """Its peers can't reach it, though control can: it is left out until the clock says `until_s`."""

    sphere: int
    text: str
    until_s: float
    at_s: float


# ---------------------------------------------------------------- of control itself


@dataclass(frozen=True, kw_only=True)
class Sent:
    """`message` went out to `sphere`. Not durable: after a restart everything is told again."""

    sphere: int
    message: ToSphere
    at_s: float


@dataclass(frozen=True, kw_only=True)
class GenerationProposed:
    generation: Generation
    members: tuple[Member, ...]
    at_s: float


@dataclass(frozen=True, kw_only=True)
class GenerationBegun:
    """The ledger's "last running generation": written before the first Go is sent. Holds all that the Gos say.

    donors: sphere -> whom it fetches from. known, in_force_at: as in Go.
    """

    generation: Generation
    members: tuple[Member, ...]
    position: Position
    deal: dict[int, list[int]]
    how: dict[int, How]
    keep: list[int] = field(default_factory=list)
    donors: dict[int, int] = field(default_factory=dict)
    record: Record | None = None
    in_force: int = 0
    in_force_at: dict[int, int] = field(default_factory=dict)
    known: int = -1
    founding: bool = False
    digest: str | None = None
    """Of the weights at `position`, where it is known."""


@dataclass(frozen=True, kw_only=True)
class OrderGiven:
    wanted: Wanted
    what: str
    request: str


@dataclass(frozen=True, kw_only=True)
class OrderTook:
    """Order `number` is in force from version `version` on: the update after it is the first that obeys."""

    number: int
    version: int


@dataclass(frozen=True, kw_only=True)
class VersionSettled:
    """Two spheres had claimed a version with other weights; a tail has found whose are everybody's: this row's."""

    sphere: int
    row: Row


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """A control that started anew has found its generation running, or has waited long enough for it."""

    whole: bool
    at_s: float


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """A control without a ledger takes up what a sphere knows of the run."""

    memory: Memory
    incarnation: int
    at_s: float


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """status: completed, stopped or failed. usage: the user's input is to blame."""

    status: str
    reason: str
    at_s: float
    usage: bool = False


@dataclass(frozen=True, kw_only=True)
class EverybodyLeft:
    """No sphere is connected any more, or the time to leave is over: control may exit."""

    at_s: float


SphereEvent: TypeAlias = (
    SphereCame
    | SphereReturned
    | SphereLost
    | SphereProved
    | SphereRefused
    | SphereBeat
    | SphereReady
    | SphereReported
    | SphereClosed
    | SphereFailed
    | SphereExpelled
    | SphereBarred
)
Event: TypeAlias = (
    SphereEvent
    | Sent
    | GenerationProposed
    | GenerationBegun
    | OrderGiven
    | OrderTook
    | VersionSettled
    | Adopted
    | Remembered
    | RunEnded
    | EverybodyLeft
)

DURABLE = (
    SphereCame,
    SphereLost,
    SphereProved,
    SphereRefused,
    SphereReported,
    SphereClosed,
    SphereFailed,
    SphereExpelled,
    SphereBarred,
    GenerationProposed,
    GenerationBegun,
    OrderGiven,
    OrderTook,
    VersionSettled,
    Adopted,
    Remembered,
    RunEnded,
)
"""In the ledger before anyone hears of them. The rest is said again by whoever it is about."""
