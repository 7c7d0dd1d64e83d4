"""What messages are made of: the values that control and spheres name in common, one frozen class each."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import msgspec

Whole = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
"""What the ledger, JSON and a sum of some thousands can hold."""

Finite = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
"""Seconds as a sphere says them: in the ledger a NaN could not be read again."""

WORD_MOST = 256
Word = Annotated[str, msgspec.Meta(max_length=WORD_MOST)]
"""Names of machines and the like, keys, ids: they are repeated in sentences, and some are kept."""

Generation: TypeAlias = tuple[int, int]
"""(incarnation of control, number). (0, 0) is "none yet"; compared in this order."""

NO_GENERATION: Generation = (0, 0)


class Position(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """Where a sphere stands. Compared as a tuple: a restore opens a lineage, a closing tail agrees on a version without
    a step, an attempt repeats a step."""

    lineage: Whole = 0
    version: Whole = 0
    closing: Whole = 0
    attempt: Whole = 0


class Phase(enum.Enum):
    """What a sphere's main thread is doing. Only `COMPUTING` can be stuck; the others wait for somebody."""

    STARTING = "starting"
    ADMITTED = "admitted"
    FROZEN = "frozen"
    BUILDING = "building"
    FETCHING = "fetching"
    COMPUTING = "computing"
    REDUCING = "reducing"
    PAUSED = "paused"
    CLOSING = "closing"
    CLOSED = "closed"


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Orders are one numbered wanted state: number n holds everything that orders 1..n asked for."""

    number: int = 0
    paused: bool = False
    stopped: bool = False
    learning_rate: float | None = None
    """The base rate that the schedule multiplies; None: the config's."""
    paces: dict[int, float] = {}
    """Sphere -> seconds that one of its micro-batches takes, as control measured: the deal follows it. Bits don't."""
    saves: int = 0
    """How many checkpoints were ordered so far: the version at which this grows is to be saved."""
    leaving: list[int] = []
    """Spheres that are to leave: while others stay, these are dealt nothing."""
    save_as: str = ""
    """The name for the newest of them; empty: it is named after its version."""
    terminated: list[str] = []
    """Paths whose sphere is to leave for good; nobody else is let in there."""

    def then(self, **changes: Any) -> Wanted:
        """The next order: this state with these fields changed."""
        return msgspec.structs.replace(self, number=self.number + 1, **changes)


ORDERS_MOST = 8_192
"""Of one run, but for the last, a stop: each sphere keeps all, and tells them to a control that has lost its ledger."""


def without_paces(orders: Sequence[Wanted], but: int = 0) -> list[Wanted]:
    """The same, but all that came before the newest `but` of them deal evenly. Of a thousand spheres the paces weigh
    13 kB in each order; the old ones would count where old versions are made again, for time alone."""
    newest = len(orders) - but
    return [
        msgspec.structs.replace(order, paces={}) if order.paces and place < newest else order
        for place, order in enumerate(orders)
    ]


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sphere in a generation: its id (used once, ever), where it says it is, and where peers reach it."""

    sphere: int
    path: str
    address: str = "127.0.0.1"
    port: int = 0
    """Of its larder, where a peer fetches the state and finds out whether it can be reached; 0: it has none."""
    key: str = ""
    """Public key of its larder; empty in a run without keys."""


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a sphere knows of the run, for a control that has lost its ledger."""

    generation: Generation
    members: list[Member]
    position: Position
    """At which that generation began."""
    orders: list[Wanted] = []


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last transition, for a sphere that missed its tail: with the sums it holds it decides the same from it.

    tail: the summed vector, int64 little-endian. paths: of the members that made it, by rank.
    """

    start: Position
    end: Position
    tail: bytes
    paths: list[str] = []


class Stored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkpoint of this run on the disk, as its manifest says; nothing of it was hashed yet.

    name: of its folder, within the folder of all. digest: of its weights.
    """

    name: str
    lineage: int
    version: int
    digest: str


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One writer's file of a checkpoint, as it lies on the disk."""

    name: str
    bytes: int
    sha256: str


class SaveState(enum.Enum):
    """How far a save has come at one of its writers. Sealed: the manifest is on the disk; only the first says so."""

    WRITING = "writing"
    WRITTEN = "written"
    SEALED = "sealed"
    FAILED = "failed"


class How(enum.Enum):
    """How a member reaches the start position: it stands there; follows the record; fetches the state from its donor;
    loads a checkpoint."""

    HERE = "here"
    RECORD = "record"
    FETCH = "fetch"
    LOAD = "load"
