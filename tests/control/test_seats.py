"""Seats against a dict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.seats import BLOCK, Seats

NUMBERS = st.integers(0, 4 * BLOCK)
CHANGES = st.lists(st.dictionaries(NUMBERS, st.integers(), max_size=5), max_size=12)


@given(st.dictionaries(NUMBERS, st.integers()), CHANGES)
def test_seats_are_what_a_dict_would_be(first: dict[int, int], changes: list[dict[int, int]]) -> None:
    seats, expected = Seats(first), dict(first)
    for change in changes:
        seats = seats.having(change)
        expected |= change
    assert seats == expected and dict(seats) == expected
    assert len(seats) == len(expected)
    assert sorted(seats.values()) == sorted(expected.values())
    assert sorted(seats.items()) == sorted(expected.items())
    assert all((number in seats) == (number in expected) for number in range(5 * BLOCK))
    assert all(seats.get(number) == expected.get(number) for number in range(5 * BLOCK))


@given(st.dictionaries(NUMBERS, st.integers()), st.dictionaries(NUMBERS, st.integers()))
def test_what_another_is_made_from_stays_as_it_was(first: dict[int, int], change: dict[int, int]) -> None:
    seats = Seats(first)
    seats.having(change)
    assert seats == first


def test_a_number_that_nobody_has_is_a_key_error() -> None:
    for seats in (Seats[int](), Seats({1: 1})):
        with pytest.raises(KeyError):
            seats[7]
