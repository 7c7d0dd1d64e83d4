"""The save in flight: what its writers lack, when it is over, what a generation owes. Pure decisions over the state."""

from __future__ import annotations

from .events import CheckpointSaved, SaveGivenUp
from .protocol import Part, Position, SaveState, Saving, Stored
from .saves import Flight, key_of
from .state import State

SAVE_S = 60.0
"""So long the run's end waits for a save; one that takes longer is an alarm."""


def word_of(state: State, sphere: int) -> Saving | None:
    """What a writer said last, if it is of the save in flight."""
    seat, flight = state.seats.get(sphere), state.saves.flight
    saving = seat.saving if seat is not None else None
    return saving if saving is not None and flight is not None and key_of(saving) == flight.key else None


def parts_to_seal(state: State) -> list[Part]:
    """All parts in the writers' order, once they are on the disk and none of them is sealed; empty before."""
    flight = state.saves.flight
    words = [word_of(state, sphere) for sphere in flight.writers] if flight is not None else []
    parts = [word.part for word in words if word is not None and word.state is SaveState.WRITTEN]
    whole = [part for part in parts if part is not None]
    return whole if words and len(whole) == len(words) else []


def save_ended(state: State, now_s: float) -> CheckpointSaved | SaveGivenUp | None:
    """The fact that the save in flight is whole, or will never be."""
    flight = state.saves.flight
    if flight is None:
        return None
    if flight.lineage < state.lineage:
        return _given_up(flight, "the run was taken back to an older version", now_s)
    first = word_of(state, flight.writers[0])
    if first is not None and first.state is SaveState.SEALED:
        return _sealed(state, flight, first, now_s)
    for sphere in flight.writers:
        word = word_of(state, sphere)
        if word is not None and word.state is SaveState.FAILED:
            return _given_up(flight, f"{state.seats[sphere].name}: {word.why}", now_s, disk=True)
    if state.generation != state.running or state.adopting_s is not None:
        return None
    lost = next((sphere for sphere in flight.writers if not _writes_on(state, flight, sphere, now_s)), None)
    return _given_up(flight, f"{_name_of(state, lost)}, which wrote a part of it, was lost", now_s) if lost else None


def _sealed(state: State, flight: Flight, first: Saving, now_s: float) -> CheckpointSaved | SaveGivenUp:
    row = state.versions.row(first.version)
    known = row.digest if row is not None and row.lineage == first.lineage and state.exact else None
    if known is not None and known != first.digest:
        text = f"its weights have digest {first.digest[:16]}, the version has {known[:16]}: a writer is sick [LW304]"
        return _given_up(flight, text, now_s, disk=True)
    words = [word_of(state, sphere) for sphere in flight.writers]
    return CheckpointSaved(
        stored=Stored(name=flight.folder, lineage=first.lineage, version=first.version, digest=first.digest),
        generation=first.generation,
        saves=flight.saves,
        manifest_sha256=first.manifest_sha256,
        bytes=sum(word.part.bytes for word in words if word is not None and word.part is not None),
        at_s=now_s,
    )


def _given_up(flight: Flight, text: str, now_s: float, *, disk: bool = False) -> SaveGivenUp:
    generation, version = flight.key
    return SaveGivenUp(generation=generation, version=version, saves=flight.saves, text=text, disk=disk, at_s=now_s)


def _name_of(state: State, sphere: int) -> str:
    seat = state.seats.get(sphere)
    return seat.name if seat is not None else f"sphere number {sphere}"


def _writes_on(state: State, flight: Flight, sphere: int, now_s: float) -> bool:
    """Whether this writer is still there; one that had not begun when a newer generation came never will.

    To a control that has just started, or that was cut off, each says again how far it has come: that takes a moment.
    """
    begun = flight.key[0] >= state.running or word_of(state, sphere) is not None
    return sphere in state.line() and (begun or now_s - flight.began_s <= state.silence_s)


def owed(state: State, position: Position, in_force: int) -> str | None:
    """The name under which the next version is to be saved where a generation begins (empty: its own); None: not.

    in_force: the number of the orders in force there. A save that was lost and is of a later version needs nothing:
    that version is made again, and is due again.
    """
    saves, flight = state.saves, state.saves.flight
    lost = flight is not None and (
        flight.lineage < position.lineage
        or not all(sphere in state.member_ids and word_of(state, sphere) is not None for sphere in flight.writers)
    )
    begun = flight.saves if flight is not None and not lost else 0
    wanted = state.orders[in_force - 1].wanted if 0 < in_force <= len(state.orders) else None
    if wanted is not None and wanted.saves > max(saves.settled, begun):
        return wanted.save_as
    return "" if lost and flight is not None and _is_behind(flight, position) else None


def _is_behind(flight: Flight, position: Position) -> bool:
    return flight.lineage == position.lineage and flight.key[1] <= position.version


def alarm(state: State, now_s: float) -> str:
    """What somebody should look at; empty if all is well."""
    saves, flight = state.saves, state.saves.flight
    if saves.trouble:
        return f"{saves.trouble}; training goes on, and the next save is tried as usual [LW608]"
    if flight is not None and now_s - flight.began_s > SAVE_S:
        return (
            f"the checkpoint of version {flight.key[1]} has been written for {now_s - flight.began_s:.0f} s; training "
            "goes on, and nothing else is saved meanwhile [LW608]"
        )
    return ""
