"""Who may take part, who is in a generation, and how it begins: pure decisions over the state.

A generation begins with a roll call (PROTOCOL: View, Ready, Go). Sets of finished micro-batches that members keep are
disjoint, and the deal is exactly what is missing: so each index is in the sum once, whoever computed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .events import GenerationBegun
from .protocol import Hello, How, Member, Position, Proof, Ready
from .state import Seat, State


def why_not_here(state: State, hello: Hello) -> str:
    """Why this sphere can't have a seat; empty if it can."""
    if hello.run_id != state.run_id:
        return f"sphere {hello.path}: its run is {hello.run_id!r}, this control's is {state.run_id!r} [LW405]"
    taken = state.seat_at(hello.path)
    if taken is not None and is_same_process(taken, hello):
        return ""  # also after the end: it may not have heard of it
    if state.ended is not None:
        return f"sphere {hello.path}: the run is over ({state.ended.reason}) [LW405]"
    if hello.path not in state.paths:
        shown = ", ".join(state.paths[:6]) + (", …" if len(state.paths) > 6 else "")
        return f"sphere {hello.path}: no such path in the tree {state.tree or shown!r}; it has {shown} [LW405]"
    if taken is not None:
        holder = taken.hello
        return f"sphere {hello.path}: the path is taken by pid {holder.pid} on {holder.host}; take another [LW405]"
    return ""


def is_same_process(seat: Seat, hello: Hello) -> bool:
    """Whether this Hello comes from the process that has the seat, back after a broken connection."""
    return (hello.path, hello.pid, hello.host) == (seat.path, seat.hello.pid, seat.hello.host)


def why_not_equal(first: Proof, path: str, proof: Proof) -> str:
    """The first field in which a proof differs from the first admitted one's; empty if it is equal."""
    ours: dict[str, object] = {**first.fingerprint, "micro_batches": first.micro_batches, "max_steps": first.max_steps}
    theirs: dict[str, object] = {
        **proof.fingerprint,
        "micro_batches": proof.micro_batches,
        "max_steps": proof.max_steps,
    }
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if ours.get(name) != theirs.get(name):
            return (
                f"sphere {path}: its {name} is {theirs.get(name)!r}, the others' is {ours.get(name)!r}; "
                "the same bits need the same on all [LW403]"
            )
    return ""


def members_of(state: State) -> tuple[Member, ...] | None:
    """All expected spheres in tree order, once each of them is here and has proved itself; None before."""
    members: list[Member] = []
    by_path = {seat.path: seat for seat in state.seats.values()}
    for path in state.paths:
        seat = by_path.get(path)
        if seat is None or seat.proof is None or not seat.connected:
            return None
        members.append(Member(sphere=seat.sphere, path=path, address=seat.hello.address))
    return tuple(members)


def deal_out(indices: Sequence[int], spheres: Sequence[int]) -> dict[int, list[int]]:
    """Indices to spheres, in order, as even as possible; the first ones get what is left over.

    >>> deal_out(range(7), [5, 2, 9])
    {5: [0, 1, 2], 2: [3, 4], 9: [5, 6]}
    """
    share, over = divmod(len(indices), len(spheres))
    deal: dict[int, list[int]] = {}
    start = 0
    for place, sphere in enumerate(spheres):
        end = start + share + (place < over)
        deal[sphere] = list(indices[start:end])
        start = end
    return deal


def readys_of(state: State) -> dict[int, Ready] | None:
    """Every member's answer to the newest View, in tree order; None while one is missing."""
    readys = {seat.sphere: seat.ready for seat in state.member_seats()}
    if not readys or any(ready is None or ready.generation != state.generation for ready in readys.values()):
        return None
    return {sphere: ready for sphere, ready in readys.items() if ready is not None}


def found(state: State, readys: dict[int, Ready]) -> GenerationBegun | str:
    """The first generation: all at v0 with equal weights, or the sentence that says who differs.

    The first sphere's state goes down the tree, so what is not in the digest is equal on all from the start too.
    """
    spheres = list(readys)
    first = readys[spheres[0]]
    for sphere, ready in readys.items():
        if ready.digest is None or ready.digest != first.digest:
            one, other = state.seats[sphere], state.seats[spheres[0]]
            ours, theirs = ((digest or "no digest")[:12] for digest in (ready.digest, first.digest))
            return (
                f"{one.name}: its weights at v0 ({ours}) differ from sphere {other.path}'s ({theirs}); "
                "seed before building the model: torch.manual_seed(config.seed) [LW404]"
            )
    return GenerationBegun(
        generation=state.generation,
        position=Position(),
        deal=deal_out(range(_micro_batches(state)), spheres),
        how={sphere: How.HERE if place == 0 else How.FETCH for place, sphere in enumerate(spheres)},
        donor=spheres[0],
        in_force=state.orders_in_view,
        founding=True,
        digest=first.digest,
    )


def carry_on(state: State, readys: dict[int, Ready]) -> GenerationBegun | str:
    """A later generation: from the highest position that the line holds; those behind follow the record or fetch.

    The line is the members of the last running generation that hold a state; nobody else may carry on while they live.
    """
    before = set(state.begun.deal) if state.begun else set()
    line = {sphere: ready for sphere, ready in readys.items() if ready.holds_state and sphere in before}
    if not line:
        return "no sphere of the last running generation holds a state: nothing to carry on from [LW406]"
    position = max(ready.position for ready in line.values())
    there = [sphere for sphere, ready in line.items() if ready.position == position]
    records = [readys[sphere].record for sphere in there]
    record = next((record for record in records if record is not None and record.end == position), None)
    kept: set[int] = set()
    keep: list[int] = []
    for sphere in there:
        if kept.isdisjoint(readys[sphere].done):
            keep.append(sphere)
            kept.update(readys[sphere].done)
    how = {}
    for sphere, ready in readys.items():
        follows = record is not None and record.start == ready.position and sphere in line
        only_attempt = record is not None and record.start.version == record.end.version
        if sphere in there:
            how[sphere] = How.HERE
        else:
            how[sphere] = How.RECORD if follows and (ready.has_sums or only_attempt) else How.FETCH
    return GenerationBegun(
        generation=state.generation,
        position=position,
        deal=deal_out(missing(range(_micro_batches(state)), kept), list(readys)),
        how=how,
        keep=keep,
        donor=there[0],
        record=record,
        in_force=max(readys[sphere].in_force for sphere in there),
        lr_table={
            version: claim.row.learning_rate
            for version, claim in state.versions.claims.items()
            if version > position.version and claim.row.learning_rate is not None
        },
        digest=readys[there[0]].digest,
    )


def missing(indices: Iterable[int], kept: set[int]) -> list[int]:
    """The indices that nobody's kept sums contain."""
    return [index for index in indices if index not in kept]


def _micro_batches(state: State) -> int:
    return state.proof.micro_batches if state.proof else 0
