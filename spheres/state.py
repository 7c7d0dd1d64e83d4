"""What a sphere decides, without sockets, clocks or tensors.

Laws
  1. What control said is folded into one frozen value, `Heard`, by one function; nothing else remembers messages.
  2. What speaks for an older generation, or comes from an older incarnation of control, changes nothing.
  3. Orders are gapless: number n is the n-th. What would leave a gap waits for control to say it again (facts are
     levels, so it does).
  4. A Go counts only for the newest View; a newer View takes it away.
  5. A phase follows another only if the table says so; an illegal move raises and changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import msgspec

from control.deal import counts, staying
from control.protocol import (
    NO_GENERATION,
    Dial,
    End,
    Expelled,
    Generation,
    Go,
    Orders,
    Phase,
    Position,
    Refused,
    SaveOver,
    Seal,
    StoreReply,
    Tick,
    ToSphere,
    View,
    Wanted,
    Welcome,
)
from lightwatch.errors import StateError

MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.STARTING: frozenset({Phase.ADMITTED, Phase.CLOSED}),
    Phase.ADMITTED: frozenset({Phase.FROZEN, Phase.CLOSED}),
    Phase.FROZEN: frozenset({Phase.BUILDING, Phase.CLOSED}),
    Phase.BUILDING: frozenset(
        {Phase.FETCHING, Phase.COMPUTING, Phase.PAUSED, Phase.CLOSING, Phase.FROZEN, Phase.CLOSED}
    ),
    Phase.FETCHING: frozenset({Phase.COMPUTING, Phase.PAUSED, Phase.CLOSING, Phase.FROZEN, Phase.CLOSED}),
    Phase.COMPUTING: frozenset({Phase.REDUCING, Phase.FROZEN, Phase.CLOSED}),
    Phase.REDUCING: frozenset({Phase.COMPUTING, Phase.PAUSED, Phase.CLOSING, Phase.FROZEN, Phase.CLOSED}),
    Phase.PAUSED: frozenset({Phase.COMPUTING, Phase.CLOSING, Phase.FROZEN, Phase.CLOSED}),
    Phase.CLOSING: frozenset({Phase.COMPUTING, Phase.FROZEN, Phase.CLOSED}),  # a script may train on
    Phase.CLOSED: frozenset(),
}
"""Phase -> the phases that may follow. Any live phase may freeze (a roll call) or close (the run is over)."""


def move(now: Phase, to: Phase) -> Phase:
    """The phase after a move; staying is always legal. Raises StateError for a move that the table doesn't have."""
    if to is now or to in MOVES[now]:
        return to
    legal = ", ".join(sorted(phase.value for phase in MOVES[now])) or "nothing"
    raise StateError(f"a sphere that is {now.value} can't become {to.value}; from here it may become {legal} [LW901]")


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What the next Beat says of this sphere; changed by `Link.stand` alone."""

    phase: Phase = Phase.STARTING
    position: Position = Position()
    generation: Generation = NO_GENERATION
    units_done: int = 0
    units_dealt: int = 0
    closing: bool = False
    failed_in: Generation = NO_GENERATION
    seen: int | None = None
    """None: what the link itself has heard, which is nearly always right."""
    in_force: int = 0
    accuses: int = 0
    unreachable: list[int] = []
    leaving: bool = False


@dataclass(frozen=True)
class Heard:
    """All that control has told this sphere, and that still holds."""

    incarnation: int = 0
    welcome: Welcome | None = None
    refused: Refused | None = None
    expelled: Expelled | None = None
    view: View | None = None
    go: Go | None = None
    """Of the view's generation, or None."""
    orders: tuple[Wanted, ...] = ()
    """Numbers 1..n, without a gap."""
    end: End | None = None
    seal: Seal | None = None
    """The newest."""
    over: SaveOver | None = None
    """Of the save that ended last."""
    ticks: int = 0
    """How often control has ticked: while that rises, control lives."""

    @property
    def sphere(self) -> int:
        """This sphere's id; 0 before Welcome."""
        return self.welcome.sphere if self.welcome else 0

    @property
    def generation(self) -> Generation:
        """The newest generation heard of; NO_GENERATION before the first View."""
        return self.view.generation if self.view else NO_GENERATION

    @property
    def seen(self) -> int:
        """The newest order heard."""
        return len(self.orders)

    @property
    def wanted(self) -> Wanted:
        """The newest order, or the state in which nothing was ever ordered."""
        return self.orders[-1] if self.orders else Wanted()

    def ends(self, generation: Generation) -> bool:
        """Whether `generation` is over for this sphere: a newer one was called, or the run has ended."""
        return self.end is not None or self.generation > generation


def hear(heard: Heard, message: ToSphere) -> Heard:
    """`heard` with one more message; the same object if the message changes nothing."""
    match message:
        case Welcome():
            return _raise_to(heard, message.incarnation, welcome=message)
        case Refused():
            return replace(heard, refused=message) if heard.refused is None else heard
        case Expelled():
            return replace(heard, expelled=message) if heard.expelled is None else heard
        case View():
            return _hear_view(heard, message)
        case Go():
            fits = heard.view is not None and message.generation == heard.view.generation and heard.go is None
            return replace(heard, go=message) if fits else heard
        case Tick():
            return _raise_to(heard, message.incarnation, ticks=heard.ticks + 1)
        case Orders():
            orders = _append(heard.orders, message.orders)
            return heard if orders is heard.orders else _raise_to(heard, message.incarnation, orders=orders)
        case Seal():
            return replace(heard, seal=message)
        case SaveOver():
            return replace(heard, over=message)
        case End():
            return replace(heard, end=message) if heard.end is None else heard
        case StoreReply() | Dial():
            return heard
    assert_never(message)


def _raise_to(heard: Heard, incarnation: int, **change: object) -> Heard:
    """`change` from a control of `incarnation`: dropped if it is an older one."""
    if incarnation < heard.incarnation:
        return heard
    return replace(heard, incarnation=incarnation, **change)  # type: ignore[arg-type]


def _hear_view(heard: Heard, view: View) -> Heard:
    if view.generation < heard.generation:
        return heard
    if view.generation == heard.generation:
        orders = _append(heard.orders, view.orders)
        return heard if orders is heard.orders else replace(heard, orders=orders)
    orders = _append(_paced_as(view.orders, heard.orders), view.orders)
    return _raise_to(heard, view.generation[0], view=view, go=None, orders=orders)


def _paced_as(told: Sequence[Wanted], orders: tuple[Wanted, ...]) -> tuple[Wanted, ...]:
    """What is known already, with the paces that a View tells to all members: they must deal alike, also those who
    knew of others, which a View leaves out."""
    known = (msgspec.structs.replace(ours, paces=theirs.paces) for ours, theirs in zip(orders, told, strict=False))
    return (*known, *orders[len(told) :])


def _append(orders: tuple[Wanted, ...], more: Iterable[Wanted]) -> tuple[Wanted, ...]:
    """`orders` and those of `more` that follow on without a gap; the same tuple if none does."""
    known = orders
    for wanted in sorted(more, key=lambda order: order.number):
        if wanted.number == len(known) + 1:
            known = (*known, wanted)
    return known


def share_out(units: int, members: Sequence[int], attempt: int) -> dict[int, list[int]]:
    """Who computes which of the indices 0..units-1: contiguous blocks, as even as possible, longer ones first.

    attempt: turns the blocks by one sphere each, so that on a repetition no index comes back to the sphere that
    computed it last (unless it is alone): what only one machine sees is then not seen again.
    """
    return deal(units, members, {}, attempt)


def deal(units: int, members: Sequence[int], paces: Mapping[int, float], attempt: int) -> dict[int, list[int]]:
    """Who computes which of the indices 0..units-1, so that the last one is done as early as can be.

    How many each gets is `control.deal.counts`' rule, which control measures by; what a sphere gets is one block. Bits
    never depend on it. attempt: as in `share_out`, which is the same without paces.
    """
    if units < 0 or attempt < 0 or not members or len(set(members)) != len(members):
        raise ValueError(f"no deal of {units} units, attempt {attempt}, to the spheres {list(members)}")
    shares: dict[int, list[int]] = {}
    start = 0
    for rank, count in enumerate(counts(units, members, paces).values()):
        shares[members[(rank + attempt) % len(members)]] = list(range(start, start + count))
        start += count
    return {sphere: shares[sphere] for sphere in members}


def deal_further_on(
    owners: Sequence[int], members: Sequence[int], leaving: Collection[int] = ()
) -> dict[int, list[int]]:
    """The deal of a repetition: each index to the member after the one that computed it last. owners: rank by index.

    leaving: these are passed over, while others stay.
    """
    workers = set(staying(members, leaving))
    shares: dict[int, list[int]] = {sphere: [] for sphere in members}
    for index, rank in enumerate(owners):
        after = (members[(rank + step) % len(members)] for step in range(1, len(members) + 1))
        shares[next(sphere for sphere in after if sphere in workers)].append(index)
    return shares


def operation_timeout_s(longest_step_s: float) -> float:
    """What one collective may take: whoever is slow is waited for, a call that gloo forgot is not. 0: no step yet."""
    return max(30.0, 10.0 * longest_step_s) if longest_step_s else 300.0
