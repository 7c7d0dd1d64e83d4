"""What one frame may hold: who is allowed to speak can't end control, nor its ledger, by a number or a name."""

from __future__ import annotations

import math
from typing import cast

import msgspec
import pytest

from control.admit import MICRO_BATCHES_MOST, _why_not_sound
from control.door import Door
from control.errors import WireError
from control.protocol import Ask, Beat, Closed, Hello, Phase, Position, Proof, Ready, Row, SaveState, Saving
from control.status import Status, Traffic
from control.totals import added_s
from control.watchers import Watchers
from control.wire import decode_at_control, encode

HUGE = 2**64 - 1
GENERATION = (1, 1)
HELLO = Hello(run_id="run", path="0", pid=1, host="here")
ROW = Row(generation=GENERATION, version=1)
SAVING = Saving(generation=GENERATION, lineage=0, version=1, folder="f", writers=[1], state=SaveState.WRITING)

SPOILT: list[msgspec.Struct] = [
    *(msgspec.structs.replace(HELLO, **{name: "x" * 10_000}) for name in ("run_id", "path", "host", "nonce", "stack")),
    *(msgspec.structs.replace(ROW, seconds={"step": value}) for value in (math.nan, math.inf, 1e308)),
    *(
        msgspec.structs.replace(ROW, **{name: HUGE})
        for name in ("version", "own_units", "samples", "weight", "attempts")
    ),
    msgspec.structs.replace(ROW, traffic=[Traffic(level=0, up=HUGE)]),
    msgspec.structs.replace(ROW, traffic=[Traffic(level=0, seconds=math.nan)]),
    msgspec.structs.replace(SAVING, saves=1 << 40),
    Closed(generation=GENERATION, version=HUGE, digest="d"),
    Closed(generation=GENERATION, version=1, digest="d", busy_s=math.nan),
    Ready(generation=GENERATION, position=Position(version=HUGE), holds_state=True),
    Beat(generation=GENERATION, number=1, phase=Phase.PAUSED, position=Position(version=HUGE)),
    Ask(request="r" * 10_000, what="status"),
]


@pytest.mark.parametrize("message", SPOILT, ids=lambda message: repr(message)[:50])
def test_what_the_ledger_could_not_keep_is_no_message(message: msgspec.Struct) -> None:
    """It is refused before anybody looks at it."""
    with pytest.raises(WireError):
        decode_at_control(encode(message))


@pytest.mark.parametrize("message", [HELLO, ROW, SAVING], ids=["hello", "row", "saving"])
def test_the_same_without_it_is_one(message: msgspec.Struct) -> None:
    """So it is the number or the name that is refused."""
    assert decode_at_control(encode(message)) == message


def test_a_reader_that_has_heard_no_number_of_lines_ends_nothing() -> None:
    """Two frames of a watcher would end the run otherwise."""
    watchers = Watchers(cast(Door, None))
    watchers.add(b"reader", Ask(request="r", what="watch"), cast(Status, None))
    for count in (math.nan, math.inf, -math.inf, None, 3.0):
        watchers.heard(b"reader", count)
    assert watchers.watching[b"reader"].read == 0


def test_a_sum_leaves_out_what_no_sum_can_hold() -> None:
    assert added_s([1.0, 1e308, math.nan, 2.0]) == 3.0


@pytest.mark.parametrize(("count", "sound"), [(0, False), (1, True), (MICRO_BATCHES_MOST, True), (1 << 40, False)])
def test_a_step_has_no_more_micro_batches_than_can_be_dealt(count: int, sound: bool) -> None:
    assert (_why_not_sound(Proof(fingerprint={}, micro_batches=count, max_steps=1)) == "") is sound
