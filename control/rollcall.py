"""How a generation begins once all have said what they hold: pure decisions over the state.

Sets of finished micro-batches that members keep are disjoint, and the deal is exactly what is missing: so each index is
in the sum once, whoever computed it. Nobody votes: a step's result is unique, so whoever is furthest is right, and
those behind are at most one transition away with the sums in hand, or fetch the state.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from .deal import deal
from .events import GenerationBegun
from .flights import owed
from .protocol import How, Position, Ready, Stored
from .state import State

Readys = dict[int, Ready]


def readys_of(state: State) -> Readys | None:
    """Every member's answer to the newest View, in tree order; None while one is missing."""
    readys = {seat.sphere: seat.ready for seat in state.member_seats()}
    if not readys or any(ready is None or ready.generation != state.generation for ready in readys.values()):
        return None
    return {sphere: ready for sphere, ready in readys.items() if ready is not None}


def begun(state: State, readys: Readys) -> GenerationBegun | str | None:
    """The generation's beginning; a sentence if the run can't go on; None while control has to wait."""
    if is_called_to_restore(state):
        return restored(state, readys)
    if state.called_for is not None and state.begun is not None:
        return carry_on(state, readys)  # nobody said what else it could read: if it takes that, all are asked again
    if state.begun is None:
        return (from_disk(state, readys) if state.resumed else None) or found(state, readys)
    return carry_on(state, readys) or from_disk(state, readys)


def is_called_to_restore(state: State) -> bool:
    """Whether all were asked for the checkpoint that is to be restored: it may have been ordered since."""
    return state.restoring > 0 and state.called_for == state.orders[state.restoring - 1].text


def found(state: State, readys: Readys) -> GenerationBegun | str:
    """The first generation: all at v0 with equal weights, or the sentence that says who differs."""
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
    if state.founded is not None and state.founded != first.digest and state.exact:
        return (
            f"the run began with weights of digest {state.founded[:12]}, what would be begun with now has "
            f"{(first.digest or 'none')[:12]}, and nothing that was saved can be read: it is another run [LW212]"
        )
    position = Position(lineage=state.lineage)
    in_force = _obeyed(state, position) if state.resumed else state.orders_in_view
    return GenerationBegun(
        generation=state.generation,
        members=state.members,
        position=position,
        deal=deal(range(_micro_batches(state)), spheres, {}),
        how=dict.fromkeys(spheres, How.HERE),
        in_force=in_force,
        in_force_at=_in_force_at(state, Position()) if state.resumed else {},
        known=_known(state, Position()),
        founding=state.founded is None,
        digest=first.digest,
        save=owed(state, position, in_force),
    )


def carry_on(state: State, readys: Readys) -> GenerationBegun | None:
    """A later generation: from the highest position that the line holds, else anybody; None if nobody holds a state.

    The line is the members of the last running generation, as far as an agreed row does not contradict them.
    """
    sound = {
        sphere: ready
        for sphere, ready in readys.items()
        if ready.holds_state and ready.position.lineage >= state.lineage and not _contradicted(state, ready)
    }
    line = {sphere: ready for sphere, ready in sound.items() if sphere in state.line()} or sound
    if not line:
        return None
    position = max(ready.position for ready in line.values())
    there = [sphere for sphere, ready in line.items() if ready.position == position]
    records = [readys[sphere].record for sphere in there]
    record = next((record for record in records if record is not None and record.end == position), None)
    how = dict.fromkeys(readys, How.FETCH)
    for sphere, ready in line.items():
        if sphere in there:
            how[sphere] = How.HERE
        elif record is not None and record.start == ready.position:
            # Without a version there are no weights to make: the exponents of another attempt need no sums.
            stays = record.start.version == record.end.version
            how[sphere] = How.RECORD if ready.has_sums or stays else How.FETCH
    keep, kept = _disjoint({sphere: readys[sphere].done for sphere in there})
    workers = [sphere for sphere in readys if how[sphere] is not How.FETCH]
    in_force = max(_obeyed(state, position), *(readys[sphere].in_force for sphere in there))
    dealt = deal(_missing(range(_micro_batches(state)), kept), workers, state.wanted.paces)
    return GenerationBegun(
        generation=state.generation,
        members=state.members,
        position=position,
        deal={sphere: dealt.get(sphere, []) for sphere in readys},
        how=how,
        keep=keep,
        donors=donors(state, how),
        record=record,
        in_force=in_force,
        in_force_at=_in_force_at(state, position),
        known=_known(state, position),
        digest=readys[there[0]].digest,
        save=owed(state, position, in_force),
    )


def from_disk(state: State, readys: Readys) -> GenerationBegun | None:
    """All holders are gone: the newest checkpoint, by whoever can read it, at last that of version 0; None if nobody
    can read any."""
    found = [stored for ready in readys.values() for stored in ready.stored if _is_on_the_way(state, stored)]
    newest = max(found, key=lambda stored: (stored.version, stored.lineage, stored.name), default=None)
    if newest is not None:
        begins = _loaded(state, readys, newest)
        return _of_a_lineage_of_its_own(state, begins) if state.begun is None and state.anew else begins
    readers = {sphere for sphere, ready in readys.items() if ready.has_v0}
    if not readers:
        return None
    return _replayed(state, readys, Position(lineage=state.lineage), readers, state.founded)


def restored(state: State, readys: Readys) -> GenerationBegun | None:
    """By order back to a checkpoint, whoever holds what: a lineage begins there. None if nobody can read it."""
    found = [stored for ready in readys.values() for stored in ready.stored]
    chosen = max(found, key=lambda stored: (stored.lineage, stored.version, stored.name), default=None)
    if chosen is None:
        return None
    return _of_a_lineage_of_its_own(state, _loaded(state, readys, chosen))


def _of_a_lineage_of_its_own(state: State, begins: GenerationBegun) -> GenerationBegun:
    """Nothing is made again: what was made above is left, and all that was ordered so far holds."""
    position = Position(lineage=state.lineage + 1, version=begins.position.version)
    number = len(state.orders)
    save = owed(state, position, number)
    return replace(begins, position=position, in_force=number, in_force_at={}, known=-1, save=save)


def _is_on_the_way(state: State, stored: Stored) -> bool:
    """Whether the run has come from this checkpoint, and not from one that it has left by a restore."""
    if stored.lineage != state.lineage and not (stored.lineage < state.lineage and stored.version <= state.origin):
        return False
    row = state.versions.row(stored.version)
    agreed = row is not None and stored.version <= state.versions.agreed and row.lineage == stored.lineage
    return not (agreed and row is not None and row.digest not in (None, stored.digest) and state.exact)


def _loaded(state: State, readys: Readys, stored: Stored) -> GenerationBegun:
    readers = {sphere for sphere, ready in readys.items() if stored in ready.stored}
    position = Position(lineage=state.lineage, version=stored.version)
    return replace(_replayed(state, readys, position, readers, stored.digest), load=stored)


def _replayed(
    state: State, readys: Readys, position: Position, readers: set[int], digest: str | None
) -> GenerationBegun:
    """All from this position, which these can read from the disk; what was made above it is made again."""
    how = {sphere: How.LOAD if sphere in readers else How.FETCH for sphere in readys}
    in_force = _obeyed(state, position)
    return GenerationBegun(
        generation=state.generation,
        members=state.members,
        position=position,
        deal=deal(range(_micro_batches(state)), list(readys), {}),
        how=how,
        donors=donors(state, how),
        in_force=in_force,
        in_force_at=_in_force_at(state, position),
        known=_known(state, position),
        founding=state.founded is None and state.begun is None,
        digest=digest,
        save=owed(state, position, in_force),
    )


def donors(state: State, how: dict[int, How]) -> dict[int, int]:
    """Whom each sphere that fetches fetches from: the nearest in the tree, the one with the fewest askers of those.

    Whoever fetches is a donor too, chunk by chunk: so a branch without a holder takes one state over its link.
    """
    path = {member.sphere: member.path.split("/") for member in state.members}
    asked = {sphere: 0 for sphere, way in how.items() if way is not How.FETCH}
    chosen: dict[int, int] = {}
    for sphere, way in how.items():
        if way is How.FETCH and asked:
            donor = min(asked, key=lambda other: (-_shared(path[sphere], path[other]), asked[other]))
            chosen[sphere] = donor
            asked[donor] += 1
            asked[sphere] = 0
    return chosen


def _shared(one: list[str], other: list[str]) -> int:
    """How many names from the root two paths share."""
    count = 0
    for ours, theirs in zip(one, other, strict=False):
        if ours != theirs:
            break
        count += 1
    return count


def _disjoint(done: dict[int, list[int]]) -> tuple[list[int], set[int]]:
    """Those whose finished micro-batches go on, in turn as long as none is there twice; and all of these."""
    keep: list[int] = []
    kept: set[int] = set()
    for sphere, indices in done.items():
        if kept.isdisjoint(indices):
            keep.append(sphere)
            kept.update(indices)
    return keep, kept


def _contradicted(state: State, ready: Ready) -> bool:
    """Whether what a sphere holds is known to be wrong: only what a tail found equal on all may judge."""
    version = ready.position.version
    row = state.versions.row(version) if version <= state.versions.agreed else None
    digest = row.digest if row is not None else state.founded if version == 0 else None
    return digest is not None and ready.digest is not None and digest != ready.digest and state.exact


def _obeyed(state: State, position: Position) -> int:
    """The newest order known to be in force there. Who was left out may hold a state of before the line agreed it."""
    took = [
        each.wanted.number for each in state.orders if each.version is not None and each.version <= position.version
    ]
    return max(took, default=0)


def _in_force_at(state: State, position: Position) -> dict[int, int]:
    return {
        order.version: order.wanted.number
        for order in state.orders
        if order.version is not None and order.version > position.version
    }


def _known(state: State, position: Position) -> int:
    """The newest version ever made, if some are to be made again."""
    top = state.versions.top
    return top if top > position.version else -1


def _missing(indices: Iterable[int], kept: set[int]) -> list[int]:
    return [index for index in indices if index not in kept]


def _micro_batches(state: State) -> int:
    return state.proof.micro_batches if state.proof else 0
