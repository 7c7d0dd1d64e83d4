"""What a client asks without changing anything, and the answer: pure, over the state."""

from __future__ import annotations

from .losses import is_gone, is_still
from .protocol import Answer, Ask, Phase
from .report import alarm_of, status_of, totals_by_path, tree_text
from .saves import Saves
from .state import ControlStatus, Seat, State
from .status import Health, NodeStats, SavedCheckpoint, SphereHealth, Totals
from .totals import merged
from .tree import Node, SphereTree

WHY_MOST = 500
"""Letters of a reason that are told: a thousand spheres that were refused still go into one frame."""
STATES = tuple(status.value for status in ControlStatus)


def answer(state: State, ask: Ask, now_s: float) -> Answer | None:
    """What is answered at once; None: it is to be waited for, until `answer_wait` has something to say."""
    request = ask.request
    match ask.what:
        case "status":
            return Answer(request=request, ok=True, status=status_of(state, now_s))
        case "tree":
            return Answer(request=request, ok=True, text=tree_text(state, now_s))
        case "health":
            return Answer(request=request, ok=True, health=health_of(state, now_s))
        case "stats":
            return Answer(request=request, ok=True, stats=stats_of(state))
        case "checkpoints":
            return Answer(
                request=request, ok=True, checkpoints=checkpoints_of(state.saves, state.lineage, state.origin)
            )
        case "wait":
            return answer_wait(state, ask, now_s)
        case _:
            return Answer(request=request, ok=False, text=f"control does not know {ask.what[:40]!r} [LW506]")


def answer_wait(state: State, ask: Ask, now_s: float) -> Answer | None:
    """The status once the run is in the state, or has the version, that is waited for; a refusal once it never will."""
    if ask.text and ask.text not in STATES:
        why = f"wait: {ask.text[:40]!r} is no state of a run; they are {', '.join(STATES)} [LW002]"
        return Answer(request=ask.request, ok=False, text=why)
    there = state.status.value == ask.text if ask.text else state.versions.version >= (ask.value or 0)
    if there:
        return Answer(request=ask.request, ok=True, status=status_of(state, now_s))
    if state.ended is None or ask.text == ControlStatus.STOPPED.value:
        return None
    what = f"is never {ask.text} again" if ask.text else f"never comes to version {ask.value:g}"
    end = f"{state.ended.status}: {state.ended.reason}"
    return Answer(request=ask.request, ok=False, text=f"wait: the run {what}, it has ended ({end}) [LW511]")


def health_of(state: State, now_s: float) -> Health:
    """How each expected sphere is."""
    spheres = [_health_at(state, path, now_s) for path in state.paths]
    alarm = alarm_of(state, now_s)
    return Health(state=state.status.value, alarm=alarm, silence_s=state.silence_s, spheres=spheres)


def _health_at(state: State, path: str, now_s: float) -> SphereHealth:
    seat = state.seat_at(path)
    if seat is None:
        return SphereHealth(path=path, state="lost", why="it has not come")
    beat, why = seat.beat, _why_out(seat)
    about_to_be_back = state.adopting_s is not None and seat.sphere in state.line()  # control has just started anew
    return SphereHealth(
        path=path,
        state=_how(state, seat, now_s),
        host=seat.hello.host,
        here=(seat.connected or about_to_be_back) and not (why or seat.released),
        sphere=seat.sphere,
        phase=beat.phase.value if beat else Phase.STARTING.value,
        version=max(seat.version, beat.position.version if beat else 0),
        cpu_s=beat.cpu_s if beat else 0.0,
        rss_bytes=beat.rss_bytes if beat else 0,
        heard_s=max(now_s - seat.heard_s, 0.0),
        still_s=max(now_s - seat.stands_s, 0.0) if beat else 0.0,
        why=why,
    )


def _why_out(seat: Seat) -> str:
    """Why it has no part in the run; empty if it has, or may have."""
    failed = f"{seat.name} failed: {seat.failed.text}" if seat.failed is not None else ""
    return (seat.expelled or seat.refused or failed)[:WHY_MOST]


def _how(state: State, seat: Seat, now_s: float) -> str:
    if seat.released:
        return "left"
    if is_gone(state, seat, now_s) or not seat.connected or now_s - seat.heard_s > state.silence_s:
        return "lost"
    if seat.beat is None or seat.beat.phase is not Phase.COMPUTING:
        return "waiting"
    return "stuck" if is_still(state, seat, now_s) else "computing"


def stats_of(state: State) -> list[NodeStats]:
    """Of each node of the tree, the root first, depth first: what its children did, merged level by level."""
    by_path = totals_by_path(state)
    found: list[NodeStats] = []

    def gather(node: Node) -> NodeStats:
        place = len(found)
        if node.is_sphere:
            stats = NodeStats(path=node.path, spheres=1, totals=by_path.get(node.path, Totals()))
            found.append(stats)
            return stats
        found.append(NodeStats(path=node.path, spheres=0, totals=Totals()))
        below = [gather(child) for child in node.children.values()]
        stats = NodeStats(
            path=node.path,
            spheres=sum(each.spheres for each in below),
            totals=merged(each.totals for each in below),
        )
        found[place] = stats
        return stats

    gather(SphereTree.of(state.paths).root)
    return found


def checkpoints_of(saves: Saves, lineage: int, origin: int) -> list[SavedCheckpoint]:
    """What was saved, the oldest first, as far back as control keeps it in mind."""
    return [
        SavedCheckpoint(
            name=event.stored.name,
            version=event.stored.version,
            lineage=event.stored.lineage,
            digest=event.stored.digest,
            bytes=event.bytes,
            on_the_way=event.stored.lineage == lineage or event.stored.version <= origin,
        )
        for event in saves.kept
    ]
