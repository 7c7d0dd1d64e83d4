"""Which connections are one too many; and complaints that don't fill the log."""

from __future__ import annotations

import logging

import pytest

from control.bucket import Bucket
from control.complaints import EVERY_S, LOGGED, Complaints
from control.connections import SILENT_MOST, SILENT_S, SPEAKING_MOST, Connections
from control.guard import BURST, SPOKEN_S


def test_a_connection_that_says_nothing_is_closed_in_time() -> None:
    """Once; one that spoke is not, however long ago."""
    connections = Connections()
    connections.opened(1, 0.0)
    connections.opened(2, 1.0)
    assert connections.spoke(1, b"a")
    assert connections.too_many(SILENT_S + 0.5) == []
    assert connections.too_many(SILENT_S + 1.0) == [2]
    assert connections.too_many(SILENT_S + 9.0) == []
    assert connections.closed(1) == b"a"


def test_of_too_many_silent_ones_the_oldest_are_closed() -> None:
    """Whoever comes newly, and is about to speak, is not."""
    connections = Connections()
    for descriptor in range(SILENT_MOST + 3):
        connections.opened(descriptor, 0.0)
    assert connections.too_many(0.0) == [0, 1, 2]
    assert connections.too_many(0.0) == []
    assert not connections.spoke(0, b"a") and connections.spoke(3, b"b")


def test_of_too_many_that_speak_the_newest_are_closed() -> None:
    """Those that were there first have a name that counts."""
    connections = Connections()
    for descriptor in range(SPEAKING_MOST + 2):
        connections.opened(descriptor, 0.0)
        connections.spoke(descriptor, str(descriptor).encode())
    assert connections.too_many(0.0) == [SPEAKING_MOST, SPEAKING_MOST + 1]


def test_a_descriptor_that_is_used_again_is_another_connection() -> None:
    """And a name that went over to another connection does not leave with the former one."""
    connections = Connections()
    connections.opened(1, 0.0)
    assert connections.spoke(1, b"a") and connections.closed(1) == b"a"
    assert not connections.spoke(1, b"a")
    for descriptor in (1, 2):
        connections.opened(descriptor, 0.0)
        assert connections.spoke(descriptor, b"b")
    assert connections.closed(1) is None and connections.closed(2) == b"b" and connections.closed(2) is None


def test_a_kind_of_trouble_is_one_line_in_some_seconds(caplog: pytest.LogCaptureFixture) -> None:
    """With the number of those that were left out; another kind has a line of its own."""
    complaints = Complaints()
    with caplog.at_level(logging.WARNING, logger="control"):
        for number in range(1000):
            complaints.say("dropped", f"frame {number}", number / 1000)
        complaints.say("no key", "a stranger", 1.0, count=5)
        complaints.say("dropped", "the last", EVERY_S)
    assert [record.getMessage() for record in caplog.records] == [
        "dropped: frame 0",
        "no key: a stranger (and 4 more of this kind)",
        "dropped: the last (and 999 more of this kind)",
    ]


def test_a_strangers_words_are_short_and_make_no_lines_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    """What can't be printed is no line break, and no colour of a terminal."""
    with caplog.at_level(logging.WARNING, logger="control"):
        Complaints().say("dropped", "a\n2026 INFO all is well\x1b[31m" + "x" * 9999, 0.0)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.isprintable() and len(message) < LOGGED + 20 and message.startswith("dropped: a?2026")


def test_so_many_frames_of_a_key_are_heard_and_then_so_many_in_a_second() -> None:
    """A burst first; silence fills the bucket again, and no further than it goes."""
    bucket = Bucket(BURST, SPOKEN_S)
    assert sum(bucket.takes(0.0) for _ in range(5000)) == BURST
    assert sum(bucket.takes(1.0) for _ in range(5000)) == SPOKEN_S
    assert sum(bucket.takes(1000.0) for _ in range(5000)) == BURST
