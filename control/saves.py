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
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from .events import CheckpointSaved, SaveGivenUp
from .protocol import Generation, Saving, Stored

Key: TypeAlias = tuple[Generation, int]

RESULTS_KEPT = 64

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Flight:
    """A save that has begun and not ended. saves: orders for checkpoints that were in force then."""

    key: Key
    folder: str
    writers: tuple[int, ...]
    saves: int
    began_s: float


@dataclass(frozen=True)
class Result:
    """What came of an order for a checkpoint. version: None: it was given up."""

    text: str
    folder: str = ""
    version: int | None = None


@dataclass(frozen=True)
class Saves:
    """All that is known of them. over, kept: the save that ended last, and whether it is whole. settled: orders for
    checkpoints that something has come of; results: of the newest. trouble: why the last one failed, if it was the
    disk."""

    flight: Flight | None = None
    last: Stored | None = None
    over: Key = ((0, 0), -1)
    kept: bool = False
    settled: int = 0
    results: dict[int, Result] = field(default_factory=dict)
    trouble: str = ""


def key_of(saving: Saving) -> Key:
    return saving.generation, saving.version


def why_no_name(name: str) -> str:
    """Why no checkpoint can be called so; empty if one can, or if it is to be named after its version."""
    if not name or (_NAME.fullmatch(name) and not name.startswith("step-")):
        return ""
    return (
        "a checkpoint's name must be 1 to 64 letters, digits, dots, dashes and underscores, and not begin with step-, "
        f"got {name[:80]!r} [LW002]"
    )


# ---------------------------------------------------------------- the writers' words


def heard(saves: Saves, saving: Saving, now_s: float) -> Saves:
    """After a writer's word: a save that nobody has heard of is in flight from now on."""
    key = key_of(saving)
    known = saves.flight.key if saves.flight is not None else saves.over
    if key <= max(known, saves.over):
        return saves
    return replace(saves, flight=Flight(key, saving.folder, tuple(saving.writers), saving.saves, now_s))


# ---------------------------------------------------------------- what comes of it


def saved(saves: Saves, event: CheckpointSaved) -> Saves:
    """After the fact that a checkpoint is whole."""
    stored = event.stored
    result = Result(f"checkpoint {stored.name} is whole, of version {stored.version}", stored.name, stored.version)
    return replace(
        _over(saves, (event.generation, stored.version), event.saves, result), last=stored, kept=True, trouble=""
    )


def given_up(saves: Saves, event: SaveGivenUp) -> Saves:
    """After the fact that a save came to nothing. What a disk refused settles its orders; else it is begun anew."""
    text = f"the checkpoint of version {event.version} is given up: {event.text}"
    settled = event.saves if event.disk else saves.settled
    over = _over(saves, (event.generation, event.version), settled, Result(text))
    return replace(over, kept=False, trouble=text if event.disk else saves.trouble)


def _over(saves: Saves, key: Key, settled: int, result: Result) -> Saves:
    results = dict(saves.results)
    results.update(dict.fromkeys(range(saves.settled + 1, settled + 1), result))
    newest = dict(list(results.items())[-RESULTS_KEPT:])
    flight = None if saves.flight is not None and saves.flight.key <= key else saves.flight
    return replace(saves, flight=flight, over=max(key, saves.over), settled=max(saves.settled, settled), results=newest)
