"""Checkpoints as control knows them: the save in flight, the newest whole one, what was ordered.

Laws
  1. A save is named by the generation in which it began and its version; a greater name is a later save. At most one is
     in flight: the spheres agree on that in their tails.
  2. It is whole when its first writer says that the manifest is on the disk, and the ledger has it from then on. It is
     given up when a writer says that it can't, or when one of them is no member any more.
  3. A save that is lost with its writers is begun anew by the next generation; one that a disk refused is not: that
     would come again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from .events import CheckpointSaved, SaveGivenUp
from .protocol import Generation, SaveState, Saving, Stored

Key: TypeAlias = tuple[Generation, int]

KEPT = 64
"""Saves that ended, and orders for checkpoints of which something has come: of so many is known how."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Flight(msgspec.Struct, frozen=True):
    """A save that has begun and not ended. saves: orders for checkpoints that were in force then."""

    key: Key
    lineage: int
    folder: str
    writers: tuple[int, ...]
    saves: int
    began_s: float


class Result(msgspec.Struct, frozen=True):
    """What came of an order for a checkpoint. version: None: it was given up."""

    text: str
    folder: str = ""
    version: int | None = None


class Saves(msgspec.Struct, frozen=True):
    """All that is known of them. ended: the newest saves that did, and whether each is whole. settled: orders for
    checkpoints that something has come of; results: of the newest. trouble: why the last one failed, if it was the
    disk."""

    flight: Flight | None = None
    last: Stored | None = None
    ended: Mapping[Key, bool] = msgspec.field(default_factory=dict)
    settled: int = 0
    results: dict[int, Result] = msgspec.field(default_factory=dict)
    trouble: str = ""
    kept: tuple[CheckpointSaved, ...] = ()
    """The newest that are whole, the oldest first; whether they are still on the disk, only the disk knows."""

    @property
    def over(self) -> Key:
        """The newest that ended."""
        return max(self.ended, default=((0, 0), -1))

    def is_kept(self, saving: Saving) -> bool | None:
        """Whether the save of which this is said is whole; None: it has not ended.

        One that another has begun after never will be. One that is forgotten counts as whole: nobody is to take away
        what may be in use.
        """
        key = key_of(saving)
        newest = self.flight.key if self.flight is not None else self.over
        if key > self.over and key >= newest:
            return None
        return self.ended.get(key, len(self.ended) >= KEPT and key < min(self.ended))


def key_of(saving: Saving) -> Key:
    return saving.generation, saving.version


def progress_of(saving: Saving) -> tuple[Key, int]:
    """How far a writer has come, for what it says later is never less."""
    return key_of(saving), list(SaveState).index(saving.state)


def can_be_named(name: str) -> bool:
    """Whether a checkpoint can be called so; the empty name is for one that is named after its version."""
    return not name or (_NAME.fullmatch(name) is not None and not name.startswith("step-"))


# ---------------------------------------------------------------- the writers' words


def heard(saves: Saves, saving: Saving, now_s: float) -> Saves:
    """After a writer's word: a save that nobody has heard of is in flight from now on."""
    key = key_of(saving)
    known = saves.flight.key if saves.flight is not None else saves.over
    if key <= max(known, saves.over):
        return saves
    flight = Flight(key, saving.lineage, saving.folder, tuple(saving.writers), saving.saves, now_s)
    return replace(saves, flight=flight)


# ---------------------------------------------------------------- what comes of it


def saved(saves: Saves, event: CheckpointSaved) -> Saves:
    """After the fact that a checkpoint is whole."""
    stored = event.stored
    result = Result(f"checkpoint {stored.name} is whole, of version {stored.version}", stored.name, stored.version)
    over = _over(saves, (event.generation, stored.version), True, event.saves, result)
    return replace(over, last=stored, trouble="", kept=(*over.kept, event)[-KEPT:])


def given_up(saves: Saves, event: SaveGivenUp) -> Saves:
    """After the fact that a save came to nothing. What a disk refused settles its orders; else it is begun anew."""
    text = f"the checkpoint of version {event.version} is given up: {event.text}"
    settled = event.saves if event.disk else saves.settled
    over = _over(saves, (event.generation, event.version), False, settled, Result(text))
    return replace(over, trouble=text if event.disk else saves.trouble)


def _over(saves: Saves, key: Key, kept: bool, settled: int, result: Result) -> Saves:
    results = dict(saves.results)
    results.update(dict.fromkeys(range(saves.settled + 1, settled + 1), result))
    newest = dict(list(results.items())[-KEPT:])
    ended = dict(sorted({**saves.ended, key: kept}.items())[-KEPT:])
    flight = None if saves.flight is not None and saves.flight.key <= key else saves.flight
    return replace(saves, flight=flight, ended=ended, settled=max(saves.settled, settled), results=newest)
