"""The run as people see it: a status, the tree as text, and each fact as one line of the story."""

from __future__ import annotations

from .admit import Already
from .epochs import epoch_status
from .events import (
    Event,
    EverybodyLeft,
    GenerationBegun,
    GenerationProposed,
    OrderGiven,
    OrderTook,
    RunEnded,
    SphereCame,
    SphereFailed,
    SphereLost,
    SphereProved,
    SphereRefused,
    SphereReported,
    SphereReturned,
)
from .metrics import tokens_per_s
from .protocol import Answer, Ask, Phase
from .protocol import Event as Story
from .state import Seat, State
from .status import EpochStatus, SphereStatus, Status
from .tree import SphereTree


def status_of(state: State, now_s: float) -> Status:
    """Everything a client sees at once."""
    row, step_s = state.versions.newest, state.versions.step_s
    max_steps = state.proof.max_steps if state.proof else -1
    left = max_steps - state.versions.version
    took = [order.wanted.number for order in state.orders if order.version is not None]
    by_path = {seat.path: seat for seat in state.seats.values()}
    return Status(
        run_id=state.run_id,
        state=state.status.value,
        tree=state.tree,
        generation=state.generation,
        version=state.versions.version,
        max_steps=max_steps,
        loss=row.loss if row else None,
        learning_rate=row.learning_rate if row else None,
        tokens_per_s=tokens_per_s(row) if row else None,
        step_s=step_s,
        eta_s=left * step_s if step_s is not None and left >= 0 else None,
        order=state.wanted.number,
        in_force=max(took, default=0),
        reason=state.ended.reason if state.ended else "",
        epoch=_epoch(state),
        spheres=[_sphere_status(by_path[path], now_s) for path in state.paths if path in by_path],
        outcome=state.ended.status if state.ended else "",
    )


def _epoch(state: State) -> EpochStatus | None:
    proof = state.proof
    return epoch_status(state.versions.epoch, proof.micro_batches, proof.steps_per_epoch) if proof else None


def _sphere_status(seat: Seat, now_s: float) -> SphereStatus:
    beat = seat.beat
    phase = beat.phase if beat else Phase.STARTING
    return SphereStatus(
        sphere=seat.sphere,
        path=seat.path,
        pid=seat.hello.pid,
        host=seat.hello.host,
        phase=phase.value if seat.connected else "gone",
        version=max(seat.version, beat.position.version if beat else 0),
        units_done=beat.units_done if beat else 0,
        units_dealt=beat.units_dealt if beat else 0,
        silent_s=max(now_s - seat.heard_s, 0.0),
        rss_bytes=beat.rss_bytes if beat else 0,
        cpu_s=beat.cpu_s if beat else 0.0,
        seconds=seat.seconds,
    )


def tree_text(state: State, now_s: float) -> str:
    """The tree with what each sphere does."""
    notes = dict.fromkeys(state.paths, "not here yet")
    for sphere in status_of(state, now_s).spheres:
        notes[sphere.path] = f"{sphere.phase} v{sphere.version}"
    return SphereTree.of(state.paths).render(notes)


def answer_order(state: State, ask: Ask, already: Already | None = None) -> Answer:
    """What a client hears about its order: its number, and the version from which it is in force once that is known."""
    number = already.number if already else state.requests.get(ask.request, 0)
    version = state.orders[number - 1].version if number else None
    text = already.text if already else f"{ask.what} is order {number}"
    if version is not None and number:
        text = f"{text}; in force from version {version}"
    return Answer(request=ask.request, ok=True, text=text, number=number or None, version=version)


def answer_late(state: State, request: str, number: int) -> Answer | None:
    """The second answer to an order: it is in force, or the run has ended before; None while neither is so."""
    order = state.orders[number - 1]
    if order.version is not None:
        text = f"{order.what} is in force from version {order.version}"
        return Answer(request=request, ok=True, text=text, number=number, version=order.version)
    if state.ended is None:
        return None
    version = state.versions.version if state.ended.status != "failed" and order.wanted.stopped else None
    text = f"{order.what}: the run has ended ({state.ended.status}): {state.ended.reason}"
    return Answer(request=request, ok=version is not None, text=text, number=number, version=version)


def story_of(before: State, event: Event, after: State) -> Story | None:
    """One line for those who watch, or None for what is nobody's news."""
    match event:
        case SphereReported(row=row):
            if row.version in before.versions.claims or row.version not in after.versions.claims:
                return None
            loss = f" loss {row.loss:.4f}" if row.loss is not None else ""
            return Story(kind="row", text=f"version {row.version}{loss}", row=row)
        case SphereCame(hello=hello):
            return Story(kind="sphere", text=f"sphere {hello.path} came (pid {hello.pid} on {hello.host})")
        case SphereReturned(sphere=sphere):
            return Story(kind="sphere", text=f"{after.seats[sphere].name} is back")
        case SphereProved(sphere=sphere):
            return Story(kind="sphere", text=f"{after.seats[sphere].name} was admitted")
        case SphereRefused(text=text):
            return Story(kind="sphere", text=f"refused: {text}")
        case SphereLost(sphere=sphere):
            seat = after.seats[sphere]
            what = "left" if after.ended else "lost its connection"
            return Story(kind="sphere", text=f"{seat.name} {what}")
        case SphereFailed(sphere=sphere, failed=failed):
            return Story(kind="sphere", text=f"{after.seats[sphere].name} failed: {failed.text}")
        case GenerationProposed(generation=generation, members=members):
            return Story(kind="generation", text=f"generation {generation}: roll call of {len(members)} spheres")
        case GenerationBegun(generation=generation, position=position):
            return Story(kind="generation", text=f"generation {generation} begins at version {position.version}")
        case OrderGiven(wanted=wanted, what=what):
            rate = f" {wanted.learning_rate}" if what == "set_learning_rate" else ""
            return Story(kind="order", text=f"order {wanted.number}: {what}{rate}")
        case OrderTook(number=number, version=version):
            return Story(kind="order", text=f"order {number} is in force from version {version}")
        case RunEnded(status=status, reason=reason):
            return Story(kind="state", text=f"{status}: {reason}")
        case EverybodyLeft():
            ended = after.ended
            return Story(kind="end", text=f"{ended.status}: {ended.reason}" if ended else "the end")
        case _:
            return None
