"""The laws that hold after every event of a simulated run, one function each; a violation raises Broken with its name.

They look from outside: at what control decided and said, at what spheres heard and made, at what clients were told.
"""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple, NoReturn

from control.events import RunEnded
from control.protocol import Generation, Member, Row, ToSphere
from control.state import Order, State

V0 = "v0"


class Broken(Exception):
    """A law was broken. law: the name of its function."""

    def __init__(self, law: str, what: str) -> None:
        super().__init__(f"{law}: {what}")
        self.law = law


def _broken(what: str) -> NoReturn:
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    raise Broken(frame.f_back.f_code.co_name, what)


class Weights(NamedTuple):
    """A toy's state. rates: that its updates used, one a version. spoilt: made in a memory that had failed."""

    digest: str = V0
    rates: tuple[float, ...] = ()
    spoilt: bool = False

    @property
    def check(self) -> int:
        """What a row says of the weights."""
        return int(sha256(self.digest.encode()).hexdigest()[:12], 16)


def updated(weights: Weights, units: Iterable[int], rate: float) -> Weights:
    """The next version: a hash of what was summed, and of the rate."""
    text = f"{weights.digest} {sorted(units)} {rate}"
    return weights._replace(digest=sha256(text.encode()).hexdigest(), rates=(*weights.rates, rate))


def rate_of(orders: Sequence[Order], version: int) -> float:
    """The rate of the update from `version` on, as a ledger's orders have it."""
    took = [each.wanted for each in orders if each.version is not None and each.version <= version]
    return (took[-1].learning_rate or 0.0) if took else 0.0


# ---------------------------------------------------------------- who acts


def only_the_newest_control_is_obeyed(newest: int, speaker: int, message: ToSphere) -> None:
    """What a control says changes nothing for a sphere that has heard of a later one."""
    if speaker < newest:
        _broken(f"a {type(message).__name__} of control {speaker} is obeyed after control {newest} was heard")


def only_the_superseded_are_fenced(superseded: bool, who: object) -> None:
    """A control is told to act no more only if there was a later one, on another disk."""
    if not superseded:
        _broken(f"{who} was fenced, and no control was ever later")


def a_superseded_control_acts_no_more(superseded: bool, ends: bool, who: object) -> None:
    """A control to which a sphere comes that has heard of a later one ends itself at once."""
    if superseded and not ends:
        _broken(f"{who} acts on")


def only_one_tree_trains(begun_at: int, later: Sequence[int], who: object) -> None:
    """Nobody finishes a step in a generation whose tail began after a later generation had finished one."""
    if later and begun_at > min(later):
        _broken(f"{who} finishes a step beside a later generation")


def a_fresh_sphere_founds_nothing(founded: bool, holds_state: bool, who: object) -> None:
    """Once a run has begun, whoever holds no state is told to fetch or to load one, never to go on with its own."""
    if founded and not holds_state:
        _broken(f"{who} came new and is told to go on from what it has built")


def a_run_is_founded_once(foundings: int) -> None:
    """No second control and no restart begins the run anew."""
    if foundings > 1:
        _broken("the run was begun a second time")


# ---------------------------------------------------------------- what only rises


def generations_only_rise(newest: Generation, proposed: Generation) -> None:
    """A generation that is proposed is above all that any sphere ever heard of."""
    if proposed <= newest:
        _broken(f"{proposed} is proposed, {newest} was told already")


def a_generation_has_one_meaning(known: object, told: object, generation: Generation) -> None:
    """All that is said of a generation says the same: its members, its start, its deal."""
    if known != told:
        _broken(f"generation {generation} was {known}, and is {told}")


def versions_only_rise(before: tuple[int, ...], after: tuple[int, ...], who: object) -> None:
    """A sphere's position never falls while its process lives; nor does what control knows of the newest version."""
    if after < before:
        _broken(f"{who} stood at {before}, and stands at {after}")


def v0_is_the_last_resort(holders: Sequence[str]) -> None:
    """Nobody begins at v0 again while a member of the running generation lives that holds a later state."""
    if holders:
        _broken(f"v0 is loaded, and {', '.join(holders)} could go on")


def a_generation_begins_at_the_highest(begins: tuple[int, ...], holders: Mapping[str, tuple[int, ...]]) -> None:
    """Nothing is made again that a member holds which may carry on."""
    for who, at in holders.items():
        if at > begins:
            _broken(f"it begins at {begins}, and {who} stands at {at}")


def who_has_answered_is_not_thrown_out(answered_s: float, most_s: float, text: str) -> None:
    """An answer to the roll call that was lost with a connection comes again over the next one."""
    if "[LW409]" in text and answered_s > most_s:
        _broken(f"{answered_s:.0f} s after its answer: {text}")


# ---------------------------------------------------------------- what is computed


def each_micro_batch_counts_once(sums: Counter[tuple[int, int]], units: int, attempt: int, who: object) -> None:
    """The sums of a step hold each micro-batch of this attempt exactly once, before any tail looks at them."""
    if sums != Counter({(unit, attempt): 1 for unit in range(units)}):
        _broken(f"{who}: {dict(sums)}")


def who_leaves_costs_no_repetition(times: int, at: object, who: object) -> None:
    """Where nothing but leaving and coming happens, nobody computes a micro-batch that somebody has computed."""
    if times > 1:
        _broken(f"{who} computes {at} once more, {times} times in all")


def a_deal_is_everybodys(deals: int, who: object) -> None:
    """All members that meet in a tail computed by the same deal."""
    if deals != 1:
        _broken(f"{who} meets {deals} deals in one tail")


def one_digest_a_version(known: str | None, made: str, version: int, who: object) -> None:
    """Whoever makes a version that somebody holds, or that the ledger knows, makes the same weights."""
    if known is not None and known != made:
        _broken(f"{who} made version {version} as {made[:8]}; it is {known[:8]}")


def a_go_can_be_obeyed(ok: bool, what: str, who: object) -> None:
    """Nobody is told to go on from where it does not stand, to follow a record without its sums, or to fetch from who
    does not hold what is fetched."""
    if not ok:
        _broken(f"{who} {what}")


def versions_are_the_clean_ones(
    rows: Iterable[Row], orders: Sequence[Order], units: int, flipped: Collection[int]
) -> None:
    """Each version in the ledger is what one undisturbed process makes of the orders that the ledger says held.

    flipped: those that somebody told wrongly, from a memory that had failed. If control hears of no later version from
    one who told them right, the wrong row stays.
    """
    weights = Weights()
    for row in rows:
        weights = updated(weights, range(units), rate_of(orders, row.version - 1))
        if row.check != weights.check and row.version not in flipped:
            _broken(f"version {row.version} has check {row.check}, the clean one {weights.check}")


def a_sick_claim_does_not_stand(told: int | None, held: Collection[int], version: int) -> None:
    """What the ledger says of the last version is what those hold who agreed on it in the closing tail."""
    if any(check != told for check in held):
        _broken(f"the ledger has check {told} for version {version}; those who closed on it have {sorted(held)}")


# ---------------------------------------------------------------- orders


def no_order_is_undone(rates: Sequence[float], rate: float, who: object) -> None:
    """Rates are ordered rising here; so no update uses a lower one than an update before it."""
    if rates and rate < rates[-1]:
        _broken(f"{who} used {rates[-1]}, then {rate}")


def an_answered_order_holds_from_its_version(answered: Mapping[int, int], version: int, used: int, who: object) -> None:
    """The update from `version` on obeys the orders that were answered with a version up to it, and no later one."""
    for number, since in answered.items():
        if (number <= used) != (since <= version):
            _broken(f"{who} updates version {version} under order {used}; order {number} was to hold from {since}")


def an_order_is_given_once(known: int | None, number: int | None, request: str) -> None:
    """A request that is repeated is answered with the number that it had."""
    if known is not None and number != known:
        _broken(f"request {request} was order {known}, and is order {number}")


def an_order_takes_effect_once(known: int | None, version: int, number: int) -> None:
    """All answers name the same version for an order."""
    if known is not None and version != known:
        _broken(f"order {number} was in force from version {known}, and is from {version}")


def orders_have_no_gap(numbers: Sequence[int], who: object) -> None:
    """What a sphere has heard of orders is 1, 2, 3 and so on."""
    if list(numbers) != list(range(1, len(numbers) + 1)):
        _broken(f"{who} heard {list(numbers)}")


def rows_say_which_order_held(rows: Iterable[Row], orders: Sequence[Order]) -> None:
    """Each row names the newest order in force from its version on; only what ends a pause may follow there."""
    for row in rows:
        since = [each for each in orders if each.version is not None and each.version <= row.version]
        held = since[-1].wanted.number if since else 0
        paused = [
            each.version == row.version and orders[row.in_force - 1].wanted.paused for each in since[row.in_force :]
        ]
        if row.in_force > held or not all(paused):
            _broken(f"the row of version {row.version} says order {row.in_force}, the orders say {held}")


# ---------------------------------------------------------------- what is kept


def nothing_is_said_before_it_is_kept(is_open: bool, message: object) -> None:
    """When a message leaves control, no fact waits to be committed."""
    if is_open:
        _broken(f"{type(message).__name__} is said with a transaction open")


class Told(NamedTuple):
    """What has left control with this disk so far."""

    view: Generation
    go: Generation
    orders: int
    rows: int


def nothing_acknowledged_is_forgotten(told: Told, answered: Mapping[int, int], state: State) -> None:
    """After its death control knows all that anybody had heard from it: generations, orders, rows."""
    if state.generation < told.view or state.running < told.go:
        _broken(f"knows generation {state.generation}, running {state.running}; {told.view} and {told.go} were told")
    if len(state.orders) < told.orders:
        _broken(f"knows {len(state.orders)} orders, {told.orders} were told")
    if state.versions.held < told.rows and told.rows:
        _broken(f"holds the rows up to {state.versions.held}; those up to {told.rows} were acknowledged")
    for number, version in answered.items():
        if number <= len(state.orders) and state.orders[number - 1].version not in (None, version):
            _broken(f"order {number} holds from {state.orders[number - 1].version}; {version} was answered")


def a_version_has_one_line(metrics: bytes, newest: int) -> None:
    """metrics.jsonl holds each version once, in order, without one missing up to the newest."""
    versions = [json.loads(line)["version"] for line in metrics.splitlines()]
    if versions != list(range(1, newest + 1)):
        _broken(f"metrics.jsonl has the versions {versions}, the ledger {newest}")


def what_spheres_kept_is_filled_in(kept: Collection[int], rows: Iterable[Row]) -> None:
    """A ledger that began empty has every version in the end that a sphere of the run can still tell of."""
    missing = set(kept) - {row.version for row in rows}
    if missing:
        _broken(f"the ledger lacks the versions {sorted(missing)}, which spheres kept")


# ---------------------------------------------------------------- ends


def the_run_does_not_fail(ended: RunEnded, flipped: Collection[int]) -> None:
    """What is tried here heals; so no run ends as failed, unless a version that was told wrongly is made again."""
    if ended.status == "failed" and not (flipped and "[LW305]" in ended.reason):
        _broken(ended.reason)


def the_end_is_agreed(completed: bool, closed: bool, who: object) -> None:
    """Of a run's completion only those hear who have agreed on its last version, or who take no part."""
    if completed and not closed:
        _broken(f"{who} is told that the run is completed")


def the_run_ends_in_time(since_s: float, most_s: float, where: str) -> None:
    """Once nothing is broken any more, the run ends within a bounded time."""
    if since_s > most_s:
        _broken(f"{since_s:.0f} s after all had healed there is no end: {where}")


def nobody_breaks(error: Exception, who: object) -> NoReturn:
    """No exception of our own ends a process."""
    _broken(f"{who}: {type(error).__name__}: {error}")


def members_of(members: Sequence[Member]) -> tuple[int, ...]:
    """The ids, for comparing."""
    return tuple(member.sphere for member in members)
