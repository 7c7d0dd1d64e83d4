"""From a message to a fact: what a sphere or client said becomes an event, a refusal, or nothing because it is stale.

What speaks for another generation than the newest is dropped before it is looked at: its sender will hear the newer
View and say again what is still true. A row is the exception, up to where the newest generation began.
"""

from __future__ import annotations

from dataclasses import dataclass

from .events import (
    OrderGiven,
    Remembered,
    SphereBeat,
    SphereCame,
    SphereClosed,
    SphereDialed,
    SphereEvent,
    SphereFailed,
    SphereProved,
    SphereReady,
    SphereRefused,
    SphereReported,
    SphereReturned,
    SphereSaving,
)
from .leaving import at_or_below, is_leaving, next_wanted
from .membership import is_same_process, why_not_equal, why_not_here
from .paces import measured_so_far
from .protocol import (
    NO_GENERATION,
    ORDERS_MOST,
    Ask,
    Beat,
    Closed,
    Dialed,
    End,
    Expelled,
    Failed,
    Generation,
    Hello,
    Memory,
    Position,
    Proof,
    Ready,
    Refused,
    Row,
    Saving,
    without_paces,
)
from .saves import can_be_named, progress_of
from .state import UNHEARD_OF, State

ORDERS = (
    "pause", "resume", "stop", "set_learning_rate", "checkpoint", "restore", "rebalance", "terminate", "spawn", "drain"
)  # fmt: skip

VERSIONS_MAX = 1 << 53
MICRO_BATCHES_MOST = 1 << 20
RATE_MOST = 1e3
"""A learning rate above it is a slip of the hand: the next version would be the last, with weights of NaN."""

FromMember = Proof | Beat | Row | Ready | Saving | Closed | Failed | Dialed


@dataclass(frozen=True)
class Refusal:
    """No, and why: one sentence for whoever asked."""

    text: str


@dataclass(frozen=True)
class Already:
    """The order asks for what is wanted already, so nothing new is given; `number` is the order that asked first."""

    number: int
    text: str


@dataclass(frozen=True)
class Fenced:
    """This control must not act for the run, and why: one sentence for whoever started it."""

    text: str


@dataclass(frozen=True)
class NotYet:
    """Nothing can be said to this sphere before one has come that knows the run."""


Admission = SphereCame | SphereReturned | Remembered | Refusal | Fenced | NotYet


def admit_hello(state: State, hello: Hello, now_s: float, key: str = "") -> Admission:
    """A seat for a sphere, its old seat for one that is back, or why not. A refusal does not end the run: the sphere
    that is expected here may still come. After Remembered, ask again, also for those who were told NotYet: before it,
    a newcomer could only be given a number that is somebody's. key: that its connection has proved."""
    if hello.run_id == state.run_id:
        news = _of_another_control(state, hello, now_s, key)
        if news is not None:
            return news
    why = why_not_here(state, hello, key)
    if why:
        return Refusal(why)
    if state.remembers and state.begun is None:
        return NotYet()
    if hello.memory is not None and _knows_other_orders(state, hello.memory):
        return Refusal(
            f"sphere {hello.path}: it knows orders that this control never gave, from one whose ledger was lost; start "
            "it anew [LW405]"
        )
    seat = state.seat_at(hello.path)
    if seat is not None and is_same_process(seat, hello, key):
        if hello.sphere in (0, seat.sphere):
            return SphereReturned(sphere=seat.sphere, at_s=now_s)
        return Refusal(f"sphere {hello.path}: it says it is number {hello.sphere}; the path's is {seat.sphere} [LW405]")
    if hello.sphere and state.remembers and _is_remembered(state, hello):
        return SphereCame(sphere=hello.sphere, hello=hello, at_s=now_s, key=key)
    if hello.sphere:
        return Refusal(f"sphere {hello.path}: number {hello.sphere} was given up; start it anew [LW405]")
    return SphereCame(sphere=state.next_sphere, hello=hello, at_s=now_s, key=key)


def refused(state: State, hello: Hello, refusal: Refusal) -> Refused | Expelled | End:
    """What is said to who may not take part. A successor of one that died at the end did nothing wrong: it is late;
    nor did one of a sphere that was terminated."""
    ended = state.ended
    if ended is not None and hello.run_id == state.run_id:
        return End(status=ended.status, reason=ended.reason)
    if hello.run_id == state.run_id and hello.path in state.wanted.terminated:
        return Expelled(text=refusal.text, final=True)
    return Refused(text=refusal.text)


def _knows_other_orders(state: State, memory: Memory) -> bool:
    """Whether a number means another order there than here: it would obey that one."""
    ours = [order.wanted for order in state.orders[: len(memory.orders)]]
    return without_paces(ours) != without_paces(memory.orders)


def _is_remembered(state: State, hello: Hello) -> bool:
    """Whether it is a sphere from before this control, which may have its number back."""
    known = state.seats.get(hello.sphere)
    return known is None or (
        known.unseen and known.path == hello.path and known.hello.larder_key in ("", hello.larder_key)
    )


def _of_another_control(state: State, hello: Hello, now_s: float, key: str) -> Remembered | Fenced | None:
    """What a sphere says of a control before, or beside, this one. In a run with keys, once there are machines that
    have taken part, only those are believed: else whoever may come could end control."""
    memory = hello.memory
    if key and state.seats and not state.remembers and all(seat.key != key for seat in state.seats.values()):
        return None
    if state.remembers:
        told = memory is not None and (memory.generation > state.running or len(memory.orders) > len(state.orders))
        if hello.incarnation <= state.incarnation and not (told and state.adopting_s is not None):
            return None
    elif hello.incarnation > state.incarnation:
        return Fenced(superseded(state, hello.path, hello.incarnation))
    elif hello.sphere < state.next_sphere or memory is None:
        return None
    else:
        return Fenced(
            f"sphere {hello.path} is number {hello.sphere} of this run, of which this ledger knows nothing: give "
            "control the run's own ledger, or start it with --adopt if that is lost [LW523]"
        )
    memory = memory or Memory(generation=NO_GENERATION, members=[], position=Position())
    incarnation = max(state.incarnation, hello.incarnation + 1 + UNHEARD_OF)
    return Remembered(memory=memory, incarnation=incarnation, at_s=now_s)


def superseded(state: State, path: str, incarnation: int) -> str:
    """Why a control ends itself that hears of a later one."""
    return (
        f"sphere {path} obeys control number {incarnation} of this run, this one is number {state.incarnation}: it "
        "acts no more [LW523]"
    )


def admit(state: State, sphere: int, message: FromMember, now_s: float) -> SphereEvent | None:
    """The fact in a seated sphere's message, or None: stale, or from one that is no member."""
    seat = state.seats[sphere]
    if seat.expelled:
        return None
    match message:
        case Proof():
            if seat.proof is not None or seat.refused or state.ended is not None:
                return None
            first = state.proof
            why = why_not_equal(first, seat.path, message) if first else _why_not_sound(message)
            if why:
                return SphereRefused(sphere=sphere, text=why, at_s=now_s)
            return SphereProved(sphere=sphere, proof=message, at_s=now_s)
        case Beat():
            if seat.beat is not None and message.number < seat.beat.number:
                return None
            return SphereBeat(sphere=sphere, beat=message, at_s=now_s)
        case Ready():
            fresh = message.generation == state.generation and state.running != state.generation
            if fresh and sphere in state.member_ids:
                return SphereReady(sphere=sphere, ready=message, at_s=now_s)
        case Row():
            if seat.proof is not None and 0 <= message.version < VERSIONS_MAX and _is_of_the_line(state, message):
                return SphereReported(sphere=sphere, row=message, at_s=now_s)
        case Saving():
            if seat.proof is None or sphere not in message.writers or not 0 <= message.version < VERSIONS_MAX:
                return None
            if seat.saving is None or progress_of(seat.saving) <= progress_of(message):  # else older than what it said
                return SphereSaving(sphere=sphere, saving=message, at_s=now_s)
        case Closed():
            if _speaks_for_running(state, sphere, message.generation):
                return SphereClosed(sphere=sphere, closed=message, at_s=now_s)
        case Dialed():
            return SphereDialed(sphere=sphere, dialed=message, at_s=now_s)
        case Failed():
            if seat.failed is None:
                return SphereFailed(sphere=sphere, failed=message, at_s=now_s)
    return None


def admit_order(state: State, ask: Ask) -> OrderGiven | Already | Refusal:
    """What a client orders, as one more numbered wanted state."""
    wanted = state.wanted
    if ask.request in state.requests:
        return Already(state.requests[ask.request], f"{ask.what} was given already")
    if state.ended is not None:
        return Refusal(f"{ask.what}: the run is over ({state.ended.status}: {state.ended.reason}) [LW511]")
    if state.remembers and state.adopting_s is not None:  # its number would be that of an order which a sphere knows
        return Refusal(f"{ask.what}: control takes over a run and does not know it yet; ask again in a moment [LW515]")
    if ask.what == "stop":
        if wanted.stopped:
            return Already(wanted.number, "the run is stopping already")
        return _next(state, ask, stopped=True)
    if wanted.stopped:
        return Refusal(f"{ask.what}: the run is stopping; nothing else can be ordered [LW511]")
    if wanted.number >= ORDERS_MOST:
        return Refusal(f"{ask.what}: this run was given {wanted.number} orders, and can only be stopped now [LW518]")
    if ask.what == "pause":
        return Already(wanted.number, "the run is paused already") if wanted.paused else _next(state, ask, paused=True)
    if ask.what == "resume":
        return _next(state, ask, paused=False) if wanted.paused else Already(0, "the run is not paused")
    if ask.what == "set_learning_rate":
        rate = ask.value
        if rate is None or not 0 < rate <= RATE_MOST:  # a NaN is neither
            return Refusal(f"set_learning_rate: expected a number above 0, {RATE_MOST:g} at most, got {rate} [LW002]")
        if rate == wanted.learning_rate:
            return Already(wanted.number, f"the learning rate is {rate} already")
        return _next(state, ask, learning_rate=rate)
    if ask.what == "checkpoint":
        return _checkpoint(state, ask)
    if ask.what == "restore":
        return _restore(state, ask)
    if ask.what == "rebalance":
        return _rebalance(state, ask)
    if ask.what == "terminate":
        return _terminate(state, ask)
    if ask.what == "spawn":
        return _spawn(state, ask)
    if ask.what == "drain":
        return _drain(state, ask)
    return Refusal(f"{ask.what!r} is not an order; control knows {', '.join(ORDERS)} [LW506]")


def _checkpoint(state: State, ask: Ask) -> OrderGiven | Already | Refusal:
    """One more save, unless one that was ordered has not come yet."""
    wanted = state.wanted
    if not can_be_named(ask.text):
        return Refusal(
            "checkpoint: a name must be 1 to 64 letters, digits, dots, dashes and underscores, and not begin with "
            f"step-, got {ask.text[:80]!r} [LW002]"
        )
    if wanted.saves > state.saves.settled:
        if wanted.save_as != ask.text:
            return Refusal("checkpoint: one that was ordered is still being made; ask again once it is whole [LW516]")
        number = next(order.wanted.number for order in state.orders if order.wanted.saves == wanted.saves)
        return Already(number, "a checkpoint is being made already")
    return _next(state, ask, saves=wanted.saves + 1, save_as=ask.text)


def _restore(state: State, ask: Ask) -> OrderGiven | Already | Refusal:
    """Back to a checkpoint, once the run has begun."""
    if state.begun is None:
        return Refusal("restore: the run has not begun; ask again in a moment [LW515]")
    if state.restoring:
        return Already(state.restoring, "the run is about to go back already")
    return _next(state, ask, text=ask.text)


def _drain(state: State, ask: Ask) -> OrderGiven | Already | Refusal:
    """Who is at a path, or below it, is to leave."""
    there = at_or_below(state, ask.text)
    if not there:
        return Refusal(
            f"drain: no sphere is at {ask.text[:80]!r}, nor below it; `lightwatch tree` shows who is [LW002]"
        )
    spheres = [seat.sphere for seat in there if not is_leaving(state, seat)]
    if not spheres:
        number = next(order.wanted.number for order in state.orders if there[-1].sphere in order.wanted.leaving)
        return Already(number, f"{ask.text} is leaving already")
    return OrderGiven(wanted=next_wanted(state, spheres), what="drain", request=ask.request, text=ask.text)


def _rebalance(state: State, ask: Ask) -> OrderGiven | Already | Refusal:
    """A deal by what was measured so far, also where control would not think it worth one."""
    paces = measured_so_far(state)
    if paces is None:
        return Refusal("rebalance: no sphere has shown yet how fast it is; ask again after some versions [LW515]")
    if paces == state.wanted.paces:
        return Already(state.wanted.number, "the micro-batches are dealt so already")
    return _next(state, ask, paces=paces)


def _terminate(state: State, ask: Ask) -> OrderGiven | Already | Refusal:
    """One path less, if others are left that hold the run's state."""
    path, wanted = ask.text, state.wanted
    if state.begun is None:
        return Refusal("terminate: the run has not begun; ask again in a moment [LW515]")
    if path in wanted.terminated:
        number = next(order.wanted.number for order in state.orders if path in order.wanted.terminated)
        return Already(number, f"sphere {path} was terminated already")
    if path not in state.paths:
        return _no_such(state, ask)
    line = [state.seats[sphere] for sphere in state.line() if sphere in state.seats]
    others = [seat for seat in line if seat.path not in (path, *wanted.terminated)]
    if not any(seat.connected and not seat.expelled and seat.failed is None for seat in others):
        return Refusal(f"terminate: sphere {path} is the last one that holds the run's state; stop the run [LW517]")
    return _next(state, ask, text=path, terminated=[*wanted.terminated, path])


def _spawn(state: State, ask: Ask) -> OrderGiven | Already | Refusal:
    """A sphere is let in again where one was terminated; whoever keeps the processes there starts it."""
    path, wanted = ask.text, state.wanted
    if path not in state.paths:
        return _no_such(state, ask)
    if path not in wanted.terminated:
        return Already(0, f"sphere {path} is not terminated")
    return _next(state, ask, text=path, terminated=[each for each in wanted.terminated if each != path])


def _no_such(state: State, ask: Ask) -> Refusal:
    shown = ", ".join(state.paths[:6]) + (", …" if len(state.paths) > 6 else "")
    return Refusal(f"{ask.what}: there is no sphere {ask.text[:80]!r}; there are {shown} [LW002]")


def _next(state: State, ask: Ask, text: str = "", **changes: object) -> OrderGiven:
    """The next wanted state: the last one with some fields changed."""
    return OrderGiven(wanted=state.wanted.then(**changes), what=ask.what, request=ask.request, text=text)


def _speaks_for_running(state: State, sphere: int, generation: Generation) -> bool:
    return state.begun is not None and generation == state.running and sphere in state.member_ids


def _is_of_the_line(state: State, row: Row) -> bool:
    """Whether the run went on from this version, or made it: a report that was kept for long is still true.

    But what a former generation's member made beyond where the newest began is made again without it, perhaps with
    more orders in force from there on: its row would have the others' never told.
    """
    begun = state.begun
    if row.lineage != state.lineage:
        return False
    return begun is not None and (row.generation >= begun.generation or row.version <= begun.position.version)


def _why_not_sound(proof: Proof) -> str:
    if not 1 <= proof.micro_batches <= MICRO_BATCHES_MOST:
        return f"micro_batches is {proof.micro_batches}; a step has 1 to {MICRO_BATCHES_MOST:,} [LW002]"
    return ""
