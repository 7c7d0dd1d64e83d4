"""Facts, in the past tense. Only facts change the state; each is a value, and a durable one is in the ledger before
anyone hears of it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from .dials import NewcomersReached as NewcomersReached
from .dials import SphereDialed as SphereDialed
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
    Saving,
    Stored,
    ToSphere,
    Wanted,
)

# ---------------------------------------------------------------- from spheres


class SphereCame(msgspec.Struct, frozen=True, kw_only=True):
    """key: that its connection has proved; the seat is that machine's. Empty in a run without keys."""

    sphere: int
    hello: Hello
    at_s: float
    key: str = ""


class SphereReturned(msgspec.Struct, frozen=True, kw_only=True):
    """Its connection broke and stands again; it is the same process."""

    sphere: int
    at_s: float


class SphereLost(msgspec.Struct, frozen=True, kw_only=True):
    """Its connection closed. It may come back; `plan` waits a moment before it says so."""

    sphere: int
    at_s: float


class SphereProved(msgspec.Struct, frozen=True, kw_only=True):
    sphere: int
    proof: Proof
    at_s: float


class SphereRefused(msgspec.Struct, frozen=True, kw_only=True):
    """It can't take part. Where its path was expected the run can't begin either; unreached: before it is mended."""

    sphere: int
    text: str
    at_s: float
    unreached: bool = False


class SphereBeat(msgspec.Struct, frozen=True, kw_only=True):
    sphere: int
    beat: Beat
    at_s: float


class SphereReady(msgspec.Struct, frozen=True, kw_only=True):
    sphere: int
    ready: Ready
    at_s: float


class SphereReported(msgspec.Struct, frozen=True, kw_only=True):
    """known: what the ledger holds of that version, where it is older than what control keeps in mind."""

    sphere: int
    row: Row
    at_s: float
    known: Row | None = None


class SphereSaving(msgspec.Struct, frozen=True, kw_only=True):
    """How far a save has come at one of its writers. Not durable: it is said again."""

    sphere: int
    saving: Saving
    at_s: float


class SphereClosed(msgspec.Struct, frozen=True, kw_only=True):
    sphere: int
    closed: Closed
    at_s: float


class SphereFailed(msgspec.Struct, frozen=True, kw_only=True):
    sphere: int
    failed: Failed
    at_s: float


class SphereExpelled(msgspec.Struct, frozen=True, kw_only=True):
    """It is stuck, silent or sick: whatever it says from now on counts for nothing. A successor is welcome."""

    sphere: int
    text: str
    at_s: float


class SphereReleased(msgspec.Struct, frozen=True, kw_only=True):
    """It was asked to leave, and nobody waits for anything of it any more: it may go, and is not missed."""

    sphere: int
    at_s: float


class SphereBarred(msgspec.Struct, frozen=True, kw_only=True):
    """Its peers can't reach it, though control can: it is left out until the clock says `until_s`."""

    sphere: int
    text: str
    until_s: float
    at_s: float


# ---------------------------------------------------------------- of control itself


class DealKept(msgspec.Struct, frozen=True, kw_only=True):
    """All members have told `version`, and what they told is no reason to deal anew. Not looked at again before the
    next one: nothing that it depends on changes in between."""

    version: int


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """`message` went out to `sphere`. Not durable: after a restart everything is told again."""

    sphere: int
    message: ToSphere
    at_s: float


class GenerationProposed(msgspec.Struct, frozen=True, kw_only=True):
    generation: Generation
    members: tuple[Member, ...]
    at_s: float
    restoring: str | None = None
    """The checkpoint that it is called for, empty: the newest; None: it is called for something else."""


class GenerationBegun(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger's "last running generation": written before the first Go is sent. Holds all that the Gos say.

    donors: sphere -> whom it fetches from. known, in_force_at, load, save: as in Go.
    """

    generation: Generation
    members: tuple[Member, ...]
    position: Position
    deal: dict[int, list[int]]
    how: dict[int, How]
    keep: list[int] = msgspec.field(default_factory=list)
    donors: dict[int, int] = msgspec.field(default_factory=dict)
    record: Record | None = None
    in_force: int = 0
    in_force_at: dict[int, int] = msgspec.field(default_factory=dict)
    known: int = -1
    founding: bool = False
    digest: str | None = None
    """Of the weights at `position`, where it is known."""
    load: Stored | None = None
    save: str | None = None


class OrderGiven(msgspec.Struct, frozen=True, kw_only=True):
    wanted: Wanted
    what: str
    request: str
    text: str = ""
    """For a restore: the checkpoint's name; for a termination: the path."""


class OrderTook(msgspec.Struct, frozen=True, kw_only=True):
    """Order `number` is in force from version `version` on: the update after it is the first that obeys."""

    number: int
    version: int


class CheckpointSaved(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint is whole on the disk. generation: in which the save began; saves: as in Saving."""

    stored: Stored
    generation: Generation
    saves: int
    manifest_sha256: str
    bytes: int
    at_s: float


class SaveGivenUp(msgspec.Struct, frozen=True, kw_only=True):
    """A save came to nothing. disk: it is the disk's fault, or a writer's, so the next one may fail likewise."""

    generation: Generation
    version: int
    saves: int
    text: str
    disk: bool
    at_s: float


class RestoreRefused(msgspec.Struct, frozen=True, kw_only=True):
    """Order `number` can't be obeyed: nobody can read that checkpoint."""

    number: int
    text: str
    at_s: float


class Resumed(msgspec.Struct, frozen=True, kw_only=True):
    """The run begins anew with other processes, those of before are all dead by a person's word. What still counts of
    its past is in here, so what the ledger has before it is history.

    generation: the newest proposed. founded: the digest of version 0, if it is known. lineage, origin: the newest, and
    the version at which it began. orders: each with what it was and the version from which it is in force. settled: of
    the orders for checkpoints. fingerprint: of the spheres of before.
    """

    paths: tuple[str, ...]
    tree: str
    next_sphere: int
    generation: Generation
    founded: str | None
    lineage: int
    origin: int
    orders: list[tuple[Wanted, str, int | None]]
    settled: int
    at_s: float
    anew: bool = False
    """A lineage of its own begins: something was overridden that changes the bits."""
    last: Stored | None = None
    fingerprint: dict[str, str] = msgspec.field(default_factory=dict)


class VersionSettled(msgspec.Struct, frozen=True, kw_only=True):
    """Two spheres had claimed a version with other weights; a tail has found whose are everybody's: this row's."""

    sphere: int
    row: Row


class Adopted(msgspec.Struct, frozen=True, kw_only=True):
    """A control that started anew has found its generation running, or has waited long enough for it."""

    whole: bool
    at_s: float


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """A control without a ledger takes up what a sphere knows of the run."""

    memory: Memory
    incarnation: int
    at_s: float


class RunEnded(msgspec.Struct, frozen=True, kw_only=True):
    """status: completed, stopped or failed. usage: the user's input is to blame."""

    status: str
    reason: str
    at_s: float
    usage: bool = False


class EverybodyLeft(msgspec.Struct, frozen=True, kw_only=True):
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
    | SphereSaving
    | SphereClosed
    | SphereFailed
    | SphereExpelled
    | SphereReleased
    | SphereBarred
    | SphereDialed
)
Event: TypeAlias = (
    SphereEvent
    | Sent
    | NewcomersReached
    | DealKept
    | GenerationProposed
    | GenerationBegun
    | OrderGiven
    | OrderTook
    | CheckpointSaved
    | SaveGivenUp
    | RestoreRefused
    | Resumed
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
    SphereReleased,
    SphereBarred,
    NewcomersReached,
    GenerationProposed,
    GenerationBegun,
    OrderGiven,
    OrderTook,
    CheckpointSaved,
    SaveGivenUp,
    RestoreRefused,
    Resumed,
    VersionSettled,
    Adopted,
    Remembered,
    RunEnded,
)
"""In the ledger before anyone hears of them. The rest is said again by whoever it is about."""


def founding_row(event: GenerationBegun) -> Row:
    """The row of the version with which the ledger, or a lineage, begins: all hold it, so it is agreed."""
    position = event.position
    return Row(
        generation=event.generation, version=position.version, lineage=position.lineage, digest=event.digest,
        in_force=event.in_force,
    )  # fmt: skip
