"""The tail of a step: one small exchange after which everybody knows the same, and takes the same decision.

A tail is one int64 vector that is summed over all spheres. Where only its owner writes a slot the sum is a gather, so
MIN, MAX and EQUAL are computed by everyone from the slots and floats travel as bit patterns (a float MAX loses NaN).

  per parameter    bounds, fired
  per bucket       checks (modulo 2^32)
  per unit         taken, weight, samples, loss (a float64's bits), bad (0, 1 + the parameter, or count + 1: the loss)
  per member       generation, position, deal, weights' check, digest, newest order seen, late (a gradient came after
                   its bucket had left), busy (microseconds since the last tail, until its own sums were complete),
                   saving (a checkpoint is being written there)

A unit is one micro-batch: training units first, then those of an evaluation of the same weights. Each must be taken
exactly once: that nothing is lost or counted twice is an equation of every step.

`soundness` and `decide` are pure: the same vector in, the same verdict out, on every sphere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import ReductionError
from .exact import OVERFLOW_BOUND, needs_rescale, next_exponents, same_checksum

Ints: TypeAlias = NDArray[np.int64]

ATTEMPTS_MOST = 12
MUST_BE_EQUAL = ("generation", "position", "deal", "weights", "digest")
OF_THE_WEIGHTS = ("weights", "digest")
MEMBER_FIELDS = (*MUST_BE_EQUAL, "seen", "late", "busy_us", "saving")
UNIT_FIELDS = ("taken", "owner", "weight", "samples", "loss", "bad")


class Tail:
    """The record, with named views into its one vector.

    parameters, buckets, units, members: the counts that fix the layout; equal on all by the fingerprint and the View.
    """

    def __init__(self, parameters: int, buckets: int, units: int, members: int) -> None:
        sums = 2 * parameters + buckets
        of_members = sums + len(UNIT_FIELDS) * units
        self.vector: Ints = np.zeros(of_members + len(MEMBER_FIELDS) * members, dtype=np.int64)
        self.bounds: Ints = self.vector[:parameters]
        self.fired: Ints = self.vector[parameters : 2 * parameters]
        self.checks: Ints = self.vector[2 * parameters : sums]
        self.units = self._columns(UNIT_FIELDS, sums, units)
        self.members = self._columns(MEMBER_FIELDS, of_members, members)

    def _columns(self, names: Sequence[str], start: int, length: int) -> dict[str, Ints]:
        # Slices: of a tiny model's step, numpy's split and reshape were a tenth.
        return {
            name: self.vector[start + place * length : start + (place + 1) * length] for place, name in enumerate(names)
        }

    def read(self, sums: bytes) -> None:
        """Become the tail whose summed vector a record holds, int64 little-endian. Raises ReductionError if that is
        one of another form."""
        if len(sums) != self.vector.nbytes:
            raise ReductionError(
                f"the record of a tail has {len(sums)} bytes, the tail of this step has {self.vector.nbytes} [LW304]"
            )
        self.vector[:] = np.frombuffer(sums, dtype="<i8")

    def written(self) -> bytes:
        """The vector as a record holds it."""
        return self.vector.astype("<i8", copy=False).tobytes()

    def take(self, unit: int, rank: int, outcome: Outcome) -> None:
        """Write the slot of a unit that this member, number `rank` of the generation, has computed."""
        self.units["taken"][unit] += 1
        self.units["owner"][unit] = rank
        self.units["weight"][unit] = outcome.weight
        self.units["samples"][unit] = outcome.samples
        self.units["loss"][unit] = np.float64(outcome.loss).view(np.int64)
        self.units["bad"][unit] = outcome.bad

    def losses(self) -> NDArray[np.float64]:
        return self.units["loss"].view(np.float64)

    def slowest(self) -> tuple[int, float]:
        """Who finished its own work last, the first of equals, and how busy it was, in seconds."""
        busy_us = self.members["busy_us"]
        slowest = int(busy_us.argmax())
        return slowest, float(busy_us[slowest]) / 1e6

    def mean_loss(self, first: int, last: int) -> tuple[float | None, int]:
        """The weighted mean loss over units [first, last) and the weight, added in index order; None without weight."""
        total, weight = 0.0, 0
        for loss, each in zip(
            self.losses()[first:last].tolist(), self.units["weight"][first:last].tolist(), strict=True
        ):
            if each:
                total += loss * each
                weight += each
        return (total / weight if weight else None), weight


@dataclass(frozen=True)
class Outcome:
    """What one micro-batch gave besides its gradient. bad: 0, or what `Tail` says."""

    loss: float
    weight: int
    samples: int
    bad: int = 0


@dataclass(frozen=True)
class Suspicion:
    """Flags raised once: they act only if the repeated step, dealt to others, raises the same."""

    bad: tuple[int, ...]
    bounds: tuple[int, ...]
    owners: tuple[int, ...]


@dataclass(frozen=True)
class Update:
    """Take the step. cleared: members whose flag the repetition did not confirm."""

    exponents: list[int]
    loss: float | None
    weight: int
    cleared: tuple[int, ...] = ()


@dataclass(frozen=True)
class Repeat:
    """Compute the same position again with the same exponents, each unit on another sphere."""

    suspicion: Suspicion | None


@dataclass(frozen=True)
class Rescale:
    """Compute again with these exponents."""

    exponents: list[int]


@dataclass(frozen=True)
class NonFinite:
    """NaN or Inf, confirmed. parameter: its index, or the number of parameters for the loss itself."""

    unit: int
    parameter: int
    owner: int

    def told(self, names: Sequence[str], version: int, owner: str) -> str:
        """The sentence for the user, about the step after `version`. names: of parameters, in the layout's order."""
        where = f"the gradient of {names[self.parameter]}" if self.parameter < len(names) else "the loss"
        return (
            f"{where} is NaN or infinite in micro-batch {self.unit} of step {version + 1} (computed twice, last by "
            f"{owner}); the weights are still those of version {version}: "
            "lower the learning rate or look at that micro-batch [LW301]"
        )


@dataclass(frozen=True)
class Hopeless:
    """The exponents find no rest. stuck: these parameters' gradients are too large for the smallest there is."""

    parameters: list[int] = field(default_factory=list)
    stuck: bool = False

    def told(self, names: Sequence[str], version: int) -> str:
        """The sentence for the user, about the step after `version`."""
        step = version + 1
        which = ", ".join(names[i] for i in self.parameters[:5]) or "each repetition raised other flags"
        if self.stuck:
            return (
                f"the gradient of {which} in step {step} is too large to be summed (above 1e27); the weights are still "
                f"those of version {version}: lower the learning rate or scale the loss down [LW302]"
            )
        return (
            f"step {step} was repeated {ATTEMPTS_MOST} times and its sums never fit: {which}; "
            "is the hardware sound? [LW303]"
        )


Verdict: TypeAlias = Update | Repeat | Rescale | NonFinite | Hopeless


class Unsound(NamedTuple):
    """Why a tail must not be acted on. odd: the member by whom it is, where that can be told."""

    reason: str
    odd: int | None = None


def soundness(
    tail: Tail,
    sums_checks: Sequence[int] | None,
    name_of: Callable[[int], str] = "member {}".format,
    own: int | None = None,
) -> Unsound | None:
    """Why this summed tail must not be acted on, or None; the odd member is named where a majority makes it odd.

    Without a majority about the weights nobody can be believed: each member that asks, number `own`, is the odd one.
    With one, each that stands apart is, to itself: were only the first of them named, one that had just fetched from
    another could be thrown out for it again and again, and that other stay.
    sums_checks: checksums of the reduced buckets as they arrived here; None where there are none (float).
    """
    taken = tail.units["taken"].tolist()
    if taken.count(1) != len(taken):
        unit = next(unit for unit, times in enumerate(taken) if times != 1)
        return Unsound(f"micro-batch {unit} was counted {taken[unit]} times, expected exactly once [LW304]")
    for name in MUST_BE_EQUAL if tail.members["seen"].size > 1 else ():
        column = tail.members[name]
        if not bool((column == column[0]).all()):
            return _apart(name, column, name_of, own)
    if sums_checks is not None and not tail.members["late"].any():
        for index, (added, arrived) in enumerate(zip(tail.checks.tolist(), sums_checks, strict=True)):
            if not same_checksum(added, arrived):
                return Unsound(f"bucket {index} arrived with another checksum than was added to it [LW304]")
    return None


def _apart(name: str, column: Ints, name_of: Callable[[int], str], own: int | None) -> Unsound:
    """What is said of members that must be equal in `name` and are not."""
    values, counts = np.unique(column, return_counts=True)
    if counts.max() * 2 <= column.size:
        other = int(np.flatnonzero(column != column[0])[0])
        odd = own if name in OF_THE_WEIGHTS else None
        return Unsound(f"{name_of(0)} and {name_of(other)} disagree about the {name} [LW304]", odd)
    apart = np.flatnonzero(column != values[int(counts.argmax())]).tolist()
    odd = own if own in apart else int(apart[0])
    return Unsound(f"{name_of(odd)} stands apart in the {name} [LW304]", odd)


def decide(
    tail: Tail,
    *,
    exponents: Sequence[int] | None,
    headroom_bits: int,
    attempt: int,
    suspicion: Suspicion | None,
    training_units: int,
) -> Verdict:
    """What a sound tail means. exponents: those the sums were made with; None in float mode.

    Sums that lack a late gradient mean nothing: the step is repeated, and no bucket leaves early in a repetition.
    """
    if any(tail.members["late"].tolist()):
        return Repeat(suspicion)
    bad = tail.units["bad"][:training_units].tolist()
    bounds = tail.bounds.tolist()
    rescale = exponents is not None and needs_rescale(exponents, bounds, headroom_bits)
    if any(bad) or rescale:
        flagged = Suspicion(tuple(bad), tuple(bounds) if rescale else (), _owners(tail, bad))
        if suspicion is None or (flagged.bad, flagged.bounds) != (suspicion.bad, suspicion.bounds):
            return Repeat(flagged) if attempt < ATTEMPTS_MOST else Hopeless()
        if any(bad):
            unit = next(unit for unit, flag in enumerate(bad) if flag)
            return NonFinite(unit, bad[unit] - 1, int(tail.units["owner"][unit]))
        assert exponents is not None
        after = next_exponents(exponents, bounds, headroom_bits)
        if after == list(exponents):
            return Hopeless([i for i, bound in enumerate(bounds) if bound >= OVERFLOW_BOUND], stuck=True)
        if attempt >= ATTEMPTS_MOST:
            return Hopeless([i for i, (old, new) in enumerate(zip(exponents, after, strict=True)) if old != new])
        return Rescale(after)
    loss, weight = tail.mean_loss(0, training_units)
    after = list(exponents or ())
    if exponents is not None and weight:
        after = next_exponents(exponents, bounds, headroom_bits)
    return Update(after, loss, weight, suspicion.owners if suspicion else ())


def _owners(tail: Tail, bad: Sequence[int]) -> tuple[int, ...]:
    owners = tail.units["owner"].tolist()
    return tuple(sorted({owners[unit] for unit, flag in enumerate(bad) if flag}))
