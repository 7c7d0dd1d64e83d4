"""The trainer's words as control's, and back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from control.protocol import Go, How, Record
from lightwatch.sync import Position, Transition
from spheres.words import packed, position_of, record_of, start_of, transition_of, wire_position

positions = st.builds(Position, st.integers(0, 99), st.integers(0, 2**31), st.integers(0, 255), st.integers(0, 13))


@given(positions, positions)
@settings(max_examples=300, deadline=None)
def test_a_position_is_one_word_of_the_tail_and_the_same_on_both_sides(one: Position, other: Position) -> None:
    """Different positions are different words, in their order, within 63 bits."""
    assert position_of(wire_position(one)) == one
    assert (packed(one) < packed(other)) == (one < other) and (packed(one) == packed(other)) == (one == other)
    assert 0 <= packed(one) < 2**63


def test_a_record_survives_the_way_there_and_back() -> None:
    """Byte by byte; nothing stays nothing."""
    transition = Transition(Position(1, 2, 0, 3), Position(1, 3), bytes(range(256)), ("a/0", "b"))
    record = record_of(transition)
    assert isinstance(record, Record) and transition_of(record) == transition
    assert record_of(None) is None and transition_of(None) is None


def test_every_way_of_control_is_one_of_the_trainer() -> None:
    """By name."""
    for how in How:
        go = Go(generation=(1, 1), position=wire_position(Position()), how=how, keep=False, deal={})
        assert start_of(go).how.name == how.name
