"""Versions as spheres report them: claimed by one, agreed by a tail, contradicted by nobody.

Laws
  1. The first row of a version claims it. A row of a later version proves that a tail found it equal on all: agreed.
  2. In exact mode a version is unique. What contradicts an agreed one, in a replay too, is a conflict that ends the
     run. Two claims that differ are rivals: the next tail finds out which of the two spheres was sick.
  3. `held` is the highest version without a gap below it: what spheres need not repeat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from .epochs import Epoch, after
from .protocol import Row
from .status import Best, Progress

WINDOW = 64
"""Versions up to `held` that are kept to compare late rows with: older ones are in the ledger."""

RECENT = 21


class Claim(msgspec.Struct, frozen=True):
    row: Row
    sphere: int


class Conflict(msgspec.Struct, frozen=True):
    """Two spheres hold different weights for one version."""

    version: int
    what: str
    one: Claim
    other: Claim


class Pace(msgspec.Struct, frozen=True):
    """Work of some versions, and the seconds of their steps."""

    versions: int
    updates: int
    samples: int
    tokens: int
    step_s: float


class Versions(msgspec.Struct, frozen=True):
    """All rows so far, the newest of them in full."""

    claims: dict[int, Claim] = msgspec.field(default_factory=dict)
    rivals: tuple[Claim, ...] = ()
    """Rows that differ from the claim of their version, which is not agreed yet."""
    held: int = -1
    agreed: int = -1
    newest: Row | None = None
    conflict: Conflict | None = None
    epoch: Epoch = msgspec.field(default_factory=Epoch)
    progress: Progress = msgspec.field(default_factory=Progress)
    recent_s: tuple[float, ...] = ()
    """Seconds of the last steps, as their first reporters measured them."""
    longest_s: float = 0.0
    """Of all steps."""

    @property
    def version(self) -> int:
        """The newest version that exists; 0 before the first row."""
        return self.newest.version if self.newest else 0

    @property
    def top(self) -> int:
        """The same, -1 before anything is known of any."""
        return self.newest.version if self.newest else -1

    @property
    def step_s(self) -> float | None:
        """The median of the last steps: one slow step does not move the ETA."""
        return sorted(self.recent_s)[len(self.recent_s) // 2] if self.recent_s else None

    @property
    def pace(self) -> Pace:
        """What the newest steps made, all spheres together."""
        rows = [self.claims[version].row for version in sorted(self.claims)]
        rows = [row for row in rows if (_finite(row.seconds.get("step")) or 0.0) > 0][-RECENT:]
        return Pace(
            versions=len(rows),
            updates=sum(not row.skipped for row in rows),
            samples=sum(row.samples for row in rows),
            tokens=sum(row.weight for row in rows),
            step_s=sum(row.seconds["step"] for row in rows),
        )

    def row(self, version: int) -> Row | None:
        """The row that claimed a version, if it is recent."""
        claim = self.claims.get(version)
        return claim.row if claim else None


def founded(versions: Versions, row: Row, sphere: int) -> Versions:
    """The start position's version: everybody holds it, by roll call or by fetching it, so it is agreed."""
    claims = {row.version: Claim(row, sphere), **versions.claims}
    return replace(
        versions,
        claims=claims,
        newest=versions.newest or row,
        agreed=max(versions.agreed, row.version),
        held=max(versions.held, row.version),
    )


def reported(versions: Versions, sphere: int, row: Row, exact: bool, known: Row | None = None) -> Versions:
    """After one sphere's row. A conflict is kept, not raised: what to do about it is `decide`'s.

    known: what the ledger holds of this version, if it is too old to be among the claims.
    """
    old = versions.claims.get(row.version) or (Claim(known, 0) if known is not None else None)
    if old is None and row.version <= versions.held:
        return versions
    if old is not None:
        return _compared(versions, old, Claim(row, sphere), exact)
    claims = {**versions.claims, row.version: Claim(row, sphere)}
    held = versions.held
    while held + 1 in claims:
        held += 1
    claims = {version: claim for version, claim in claims.items() if version > held - WINDOW}
    seconds = row.seconds.get("step") or 0.0
    return replace(
        versions,
        claims=claims,
        rivals=tuple(rival for rival in versions.rivals if rival.row.version >= row.version - 1),
        held=held,
        agreed=max(versions.agreed, row.version - 1),
        epoch=after(versions.epoch, row),
        progress=_progressed(versions.progress, row),
        newest=row if row.version >= versions.version else versions.newest,
        recent_s=(*versions.recent_s, seconds)[-RECENT:] if seconds else versions.recent_s,
        longest_s=max(versions.longest_s, seconds if math.isfinite(seconds) else 0.0),
    )


def _compared(versions: Versions, old: Claim, new: Claim, exact: bool) -> Versions:
    """A row of a version that is claimed already: the same, more of it, a rival, or a contradiction."""
    version = old.row.version
    what = differs(old.row, new.row) if exact else ""
    if what and version <= versions.agreed:
        return replace(versions, conflict=versions.conflict or Conflict(version, what, old, new))
    if what:
        known = any(rival.sphere == new.sphere and rival.row.version == version for rival in versions.rivals)
        return versions if known else replace(versions, rivals=(*versions.rivals, new))
    lacks = (old.row.digest is None and new.row.digest is not None) or (
        old.row.check is None and new.row.check is not None
    )
    if lacks and version in versions.claims:
        merged = Claim(filled_in(old.row, new.row), old.sphere)
        return replace(versions, claims={**versions.claims, version: merged})
    return versions


def settled(versions: Versions, reached: Mapping[int, int]) -> Claim | None:
    """The rival that a tail has proved right: its sphere went on from that version, and the claimant never did.

    reached: sphere -> the newest version that it told. Whoever tells the next version first may have fetched it.
    """
    for rival in versions.rivals:
        version = rival.row.version
        claim = versions.claims.get(version)
        if claim is not None and reached.get(rival.sphere, -1) > version >= reached.get(claim.sphere, -1):
            return rival
    return None


def settle(versions: Versions, sphere: int, row: Row) -> Versions:
    """The claim of a version becomes this row; its rivals are over."""
    rivals = tuple(rival for rival in versions.rivals if rival.row.version != row.version)
    return replace(versions, claims={**versions.claims, row.version: Claim(row, sphere)}, rivals=rivals)


def obeying(versions: Versions, version: int, in_force: int) -> Versions:
    """With the orders that are in force from a version on where a generation begins: a row of it may know of fewer."""
    claim = versions.claims.get(version)
    if claim is None or claim.row.in_force >= in_force:
        return versions
    row = replace(claim.row, in_force=in_force)
    claims = {**versions.claims, version: Claim(row, claim.sphere)}
    return replace(versions, claims=claims)


def _progressed(progress: Progress, row: Row) -> Progress:
    """With one more version, whose row is told the first time."""
    eval_loss = _finite(row.eval_loss)
    return Progress(
        best=_better(progress.best, row.loss, row.version),
        eval_loss=progress.eval_loss if eval_loss is None else eval_loss,
        best_eval=_better(progress.best_eval, eval_loss, row.version),
        clip_ratio=_finite(row.clip_ratio),
        skipped=progress.skipped + row.skipped,
        trouble=(row.trouble or "") if row.skipped else progress.trouble,
    )


def _better(best: Best | None, value: float | None, version: int) -> Best | None:
    """The lower of the two; of equal ones the earlier."""
    value = _finite(value)
    if value is None or (best is not None and best.value <= value):
        return best
    return Best(value=value, version=version)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def differs(one: Row, other: Row) -> str:
    """The field in which two rows of a version contradict each other, with both values; empty if they agree."""
    if one.lineage != other.lineage:
        return f"lineage {one.lineage} and {other.lineage}"
    if one.check is not None and other.check is not None and one.check != other.check:
        return f"check {one.check:x} and {other.check:x}"
    if one.digest is not None and other.digest is not None and one.digest != other.digest:
        return f"digest {one.digest[:16]} and {other.digest[:16]}"
    return ""


def filled_in(row: Row, more: Row) -> Row:
    """The row with the digest and the check that `more` has and it has not."""
    fields = {name: getattr(row, name) for name in row.__struct_fields__}
    for name in ("digest", "check"):
        if fields[name] is None:
            fields[name] = getattr(more, name)
    return Row(**fields)
