"""The run as people see it: a status, the tree as text, and each fact as one line of the story."""

from __future__ import annotations

import msgspec

from .admit import Already
from .delays import slow_link, slowest
from .epochs import epoch_status
from .events import (
    Adopted,
    CheckpointSaved,
    Event,
    EverybodyLeft,
    GenerationBegun,
    GenerationProposed,
    OrderGiven,
    OrderTook,
    Remembered,
    RestoreRefused,
    Resumed,
    RunEnded,
    SaveGivenUp,
    SphereBarred,
    SphereBeat,
    SphereCame,
    SphereExpelled,
    SphereFailed,
    SphereLost,
    SphereProved,
    SphereRefused,
    SphereReleased,
    SphereReported,
    SphereReturned,
    VersionSettled,
)
from .flights import alarm as save_alarm
from .generations import TAKEOVER_S, is_held, waits_for
from .leaving import all_have_left, is_leaving
from .protocol import Answer, Ask, Phase, Row
from .protocol import Event as Story
from .rollcall import readys_of
from .state import Order, Seat, State
from .status import EpochStatus, SphereStatus, Status, Throughput, Totals
from .totals import merged, summed
from .tree import SphereTree
from .versions import Pace

LATE = ("checkpoint", "restore", "drain")
"""Orders that are obeyed some time after they are in force."""


def status_of(state: State, now_s: float) -> Status:
    """Everything a client sees at once."""
    recent = {sphere: summed(seat.account.laps) for sphere, seat in state.seats.items()}
    row, step_s, pace = state.versions.newest, state.versions.step_s, state.versions.pace
    totals = merged(seat.account.totals for seat in state.seats.values())
    work = _throughput(pace, state.proof.micro_batches if state.proof else 0)
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
        tokens_per_s=work.tokens_per_s,
        step_s=step_s,
        eta_s=left * step_s if step_s is not None and left >= 0 else None,
        order=state.wanted.number,
        in_force=max(took, default=0),
        reason=state.ended.reason if state.ended else "",
        epoch=_epoch(state),
        spheres=[
            _sphere_status(state, by_path[path], recent[by_path[path].sphere], now_s)
            for path in state.paths
            if path in by_path
        ],
        outcome=state.ended.status if state.ended else "",
        progress=state.versions.progress,
        throughput=work,
        updates_per_s=pace.updates / pace.step_s if pace.versions else None,
        totals=totals,
        recent=merged(recent.values()),
        slowest=slowest({seat.path: seat.account.laps for seat in state.seats.values()}),
        slow_link=slow_link(totals.round_trips, step_s),
        checkpoint=state.saves.last.name if state.saves.last else "",
        checkpoint_version=state.saves.last.version if state.saves.last else None,
        alarm=alarm_of(state, now_s) or save_alarm(state, now_s),
    )


def alarm_of(state: State, now_s: float) -> str:
    """What somebody should look at, in a sentence; empty if all is well."""
    if state.ended is not None:
        return ""
    missing = waits_for(state, now_s) or waits_for(state, now_s, readys_of(state) or None)
    if missing and state.adopting_s is None:
        names = ", ".join(seat.name for seat in missing[:3])
        return (
            f"nobody of the running generation is here with a state; waiting for {names} before anybody else "
            f"may carry on (at most {TAKEOVER_S:g} s) [LW411]"
        )
    if state.begun is not None and is_held(state, now_s):
        return (
            "no sphere holds a state, and none can read a checkpoint or v0.safetensors: put one back into the run's "
            "folder [LW412]"
        )
    if all_have_left(state, now_s):
        last = state.saves.last
        whence = f"checkpoint {last.name}" if last is not None else "version 0"
        return f"all spheres have left, as they were asked to; one that comes goes on from {whence} [LW415]"
    return ""


def totals_by_path(state: State) -> dict[str, Totals]:
    """What each path's spheres have done and waited so far, for the record: who came last goes on with the account."""
    seats = {path: state.seats.get(sphere) for path, sphere in state.sphere_at.items()}
    return {path: seat.account.totals for path, seat in seats.items() if seat is not None}


def _throughput(pace: Pace, micro_batches: int) -> Throughput:
    """Of all spheres together; `micro_batches` a version."""
    if not pace.versions:
        return Throughput()
    return Throughput(
        samples_per_s=pace.samples / pace.step_s,
        tokens_per_s=pace.tokens / pace.step_s,
        micro_batches_per_s=pace.versions * micro_batches / pace.step_s,
    )


def _epoch(state: State) -> EpochStatus | None:
    proof = state.proof
    return epoch_status(state.versions.epoch, proof.micro_batches, proof.steps_per_epoch) if proof else None


def _sphere_status(state: State, seat: Seat, recent: Totals, now_s: float) -> SphereStatus:
    beat, laps, totals = seat.beat, seat.account.laps, seat.account.totals
    phase = beat.phase.value if beat else Phase.STARTING.value
    phase = "leaving" if is_leaving(state, seat) else phase
    return SphereStatus(
        sphere=seat.sphere,
        path=seat.path,
        pid=seat.hello.pid,
        host=seat.hello.host,
        phase=phase if seat.connected else "left" if seat.released else "gone",
        version=max(seat.version, beat.position.version if beat else 0),
        units_done=beat.units_done if beat else 0,
        units_dealt=beat.units_dealt if beat else 0,
        silent_s=max(now_s - seat.heard_s, 0.0),
        rss_bytes=beat.rss_bytes if beat else 0,
        cpu_s=beat.cpu_s if beat else 0.0,
        seconds=laps[-1].seconds if laps else {},
        throughput=recent.throughput,
        sync_share=recent.sync_share,
        totals=msgspec.structs.replace(totals, traffic=[], round_trips={}),
        up_bytes=sum(level.up for level in totals.traffic),
        down_bytes=sum(level.down for level in totals.traffic),
        in_force=beat.in_force if beat else 0,
    )


def _version_text(row: Row) -> str:
    """A version in words; a skipped one kept the weights of the one before, and why is told."""
    if row.skipped:
        return f"version {row.version} skipped its update: {row.trouble or 'the gradient was no number'}"
    return f"version {row.version}" + (f" loss {row.loss:.4f}" if row.loss is not None else "")


def tree_text(state: State, now_s: float) -> str:
    """The tree with what each sphere does."""
    notes = dict.fromkeys(state.paths, "not here yet")
    for sphere in status_of(state, now_s).spheres:
        notes[sphere.path] = f"{sphere.phase} v{sphere.version}"
    notes.update(dict.fromkeys(state.wanted.terminated, "terminated"))
    return SphereTree.of(state.paths).render(notes)


def answer_order(state: State, ask: Ask, already: Already | None = None) -> Answer:
    """What a client hears about its order: its number, and the version from which it is in force once that is known."""
    number = already.number if already else state.requests.get(ask.request, 0)
    text = already.text if already else f"{ask.what} is order {number}"
    if number and state.orders[number - 1].what in LATE:
        late = answer_late(state, ask, number)
        return late or Answer(request=ask.request, ok=True, text=text, number=number)
    version = state.orders[number - 1].version if number else None
    if version is not None and number:
        text = f"{text}; in force from version {version}"
    return Answer(request=ask.request, ok=True, text=text, number=number or None, version=version)


def answer_late(state: State, ask: Ask, number: int) -> Answer | None:
    """The second answer to an order: it is obeyed, or the run has ended before; None while neither is so."""
    request, order = ask.request, state.orders[number - 1]
    done = _come_of(state, request, order)
    if done is not None:
        return done
    if order.version is not None and order.what not in LATE:
        text = f"{order.what} is in force from version {order.version}"
        return Answer(request=request, ok=True, text=text, number=number, version=order.version)
    if state.ended is None:
        return None
    end = f"the run has ended ({state.ended.status}: {state.ended.reason})"
    if state.ended.status != "failed" and order.wanted.stopped:
        return Answer(request=request, ok=True, text=end, number=number, version=state.versions.version)
    return Answer(request=request, ok=False, text=f"{order.what}: {end} [LW511]", number=number)


def _come_of(state: State, request: str, order: Order) -> Answer | None:
    """What has come of an order for a checkpoint, or to restore one; None: nothing yet."""
    number = order.wanted.number
    if order.what == "checkpoint":
        result = state.saves.results.get(order.wanted.saves)
        if result is None:
            return None
        if result.version is None:
            return Answer(request=request, ok=False, text=f"{result.text} [LW608]", number=number)
        folder, version = result.folder, result.version
        return Answer(request=request, ok=True, text=result.text, number=number, version=version, checkpoint=folder)
    if order.what == "drain":
        return _left(state, request, order)
    if order.what == "restore" and number in state.refusals:
        return Answer(request=request, ok=False, text=state.refusals[number].text, number=number)
    if order.what == "restore" and state.restoring != number:
        text = f"the run goes on from version {order.version}"
        return Answer(request=request, ok=True, text=text, number=number, version=order.version)
    return None


def _left(state: State, request: str, order: Order) -> Answer | None:
    """Whether it is in force, and all have gone whom it names."""
    if order.version is None:
        return None
    before = state.orders[order.wanted.number - 2].wanted.leaving if order.wanted.number > 1 else []
    seats = [state.seats.get(sphere) for sphere in order.wanted.leaving if sphere not in before]
    if any(seat is not None and not (seat.released or seat.expelled) for seat in seats):
        return None
    version = max(state.versions.version, order.version)
    text = f"{order.text} has left, at version {version}"
    return Answer(request=request, ok=True, text=text, number=order.wanted.number, version=version)


def story_of(before: State, event: Event, after: State) -> Story | None:
    """One line for those who watch, or None for what is nobody's news."""
    match event:
        case SphereBeat():
            return None
        case SphereReported(row=row):
            if row.version <= before.versions.top or row.version > after.versions.top:
                return None
            return Story(kind="row", text=_version_text(row), row=row)
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
            what = "left" if after.ended or seat.released else "lost its connection"
            return Story(kind="sphere", text=f"{seat.name} {what}")
        case SphereExpelled(text=text):
            return Story(kind="sphere", text=f"thrown out: {text}")
        case SphereReleased(sphere=sphere):
            return Story(kind="sphere", text=f"{after.seats[sphere].name} leaves, as it was asked to")
        case SphereBarred(text=text, until_s=until_s, at_s=at_s):
            return Story(kind="sphere", text=f"left out for {until_s - at_s:.1f} s: {text}")
        case VersionSettled(sphere=sphere, row=row):
            return Story(kind="sphere", text=f"version {row.version} is sphere {after.seats[sphere].path}'s after all")
        case Adopted(whole=whole):
            how = "as it was" if whole else "but not whole"
            return Story(kind="state", text=f"control {after.incarnation} found the run going on, {how}")
        case Remembered(memory=memory, incarnation=incarnation):
            return Story(kind="state", text=f"control {incarnation} learned of generation {memory.generation}")
        case SphereFailed(sphere=sphere, failed=failed):
            return Story(kind="sphere", text=f"{after.seats[sphere].name} failed: {failed.text}")
        case GenerationProposed(generation=generation, members=members):
            return Story(kind="generation", text=f"generation {generation}: roll call of {len(members)}")
        case GenerationBegun(generation=generation, position=position):
            return Story(kind="generation", text=f"generation {generation} begins at version {position.version}")
        case CheckpointSaved(stored=stored):
            return Story(kind="checkpoint", text=f"checkpoint {stored.name} is whole, of version {stored.version}")
        case SaveGivenUp(version=version, text=text):
            return Story(kind="checkpoint", text=f"the checkpoint of version {version} is given up: {text}")
        case RestoreRefused(text=text):
            return Story(kind="order", text=text)
        case Resumed(tree=tree):
            return Story(kind="state", text=f"the run goes on, on the tree {tree}")
        case OrderGiven(wanted=wanted, what=what, text=named):
            object_of = f" {wanted.learning_rate}" if what == "set_learning_rate" else f" {named}" if named else ""
            return Story(kind="order", text=f"order {wanted.number}: {what}{object_of}")
        case OrderTook(number=number, version=version):
            return Story(kind="order", text=f"order {number} is in force from version {version}")
        case RunEnded(status=status, reason=reason):
            return Story(kind="state", text=f"{status}: {reason}")
        case EverybodyLeft():
            ended = after.ended
            return Story(kind="end", text=f"{ended.status}: {ended.reason}" if ended else "the end")
        case _:
            return None
