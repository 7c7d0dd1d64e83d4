"""What is said, and said again, by plain values."""

from __future__ import annotations

from control.protocol import Failed, Position, Proof, Ready, Row, StoreGet, ToControl
from control.wire import decode_at_control
from spheres.outbox import Outbox

GENERATION = (1, 1)
PROOF = Proof(fingerprint={}, micro_batches=1, max_steps=9)


def row(version: int) -> Row:
    return Row(generation=GENERATION, version=version)


def ready(number: int) -> Ready:
    return Ready(generation=(1, number), position=Position(), holds_state=True)


def taken(outbox: Outbox) -> list[ToControl]:
    """All that is left, as control would read it."""
    found = []
    while (frame := outbox.take()) is not None:
        found.append(decode_at_control(frame))
    return found


def test_what_is_put_in_is_taken_out_in_the_same_order() -> None:
    """And once; what could not be sent is taken next."""
    outbox = Outbox()
    messages: list[ToControl] = [PROOF, row(1), StoreGet(generation=GENERATION, request=1, keys=[]), row(2)]
    for message in messages:
        outbox.put(message)
    assert len(outbox) == 4
    frame = outbox.take()
    assert frame is not None
    outbox.put_back(frame)
    assert taken(outbox) == messages
    assert len(outbox) == 0


def test_rows_above_what_control_holds_are_said_again_before_anything_newer() -> None:
    """In order, each once, sent before or not; and before them what lets control read them, the proof."""
    outbox = Outbox()
    for message in (PROOF, row(1), row(2), row(3), ready(1)):
        outbox.put(message)
    taken(outbox)
    outbox.put(row(4))
    outbox.put(Failed(text="x"))
    outbox.say_again(rows_held=1)
    assert taken(outbox) == [PROOF, row(2), row(3), row(4), ready(1), Failed(text="x")]


def test_an_empty_ledger_is_told_all_rows_that_are_kept() -> None:
    """Also acknowledged ones; no more than the bound, the newest."""
    outbox = Outbox(rows_kept=3)
    for version in range(6):
        outbox.put(row(version))
    taken(outbox)
    outbox.say_again(rows_held=-1)
    assert taken(outbox) == [row(3), row(4), row(5)]


def test_only_the_newest_of_each_kind_is_said_again() -> None:
    """A Ready for a generation that is gone says nothing; requests are not repeated, but those that wait are kept."""
    outbox = Outbox()
    for number in (1, 2):
        outbox.put(ready(number))
    taken(outbox)
    get = StoreGet(generation=GENERATION, request=7, keys=["k"])
    outbox.put(get)
    outbox.say_again(rows_held=9)
    assert taken(outbox) == [ready(2), get]


def test_what_waited_unsent_is_not_said_after_the_newest_of_its_kind() -> None:
    """Two that were put while nobody was there: the older one would take the newer one's place at control."""
    outbox = Outbox()
    for number in (1, 2):
        outbox.put(ready(number))
    outbox.say_again(rows_held=9)
    assert taken(outbox) == [ready(2)]
