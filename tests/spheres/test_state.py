"""A sphere's decisions, by plain values."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.protocol import (
    NO_GENERATION,
    End,
    Expelled,
    Generation,
    Go,
    How,
    Orders,
    Phase,
    Position,
    Refused,
    StoreReply,
    Tick,
    ToSphere,
    View,
    Wanted,
    Welcome,
)
from lightwatch.errors import StateError
from spheres.state import MOVES, Heard, deal, deal_further_on, hear, move, operation_timeout_s, share_out


def go(generation: Generation) -> Go:
    return Go(generation=generation, position=Position(), how=How.HERE, keep=False, deal={1: [0]})


def wanted(*numbers: int) -> list[Wanted]:
    return [Wanted(number=number, learning_rate=float(number)) for number in numbers]


def fold(*messages: ToSphere) -> Heard:
    heard = Heard()
    for message in messages:
        heard = hear(heard, message)
    return heard


def test_a_view_of_an_older_generation_changes_nothing() -> None:
    """Law 2: what speaks for an older generation is dropped, also within one incarnation."""
    heard = fold(View(generation=(2, 3), members=[]))
    for stale in [(1, 9), (2, 2)]:
        assert hear(heard, View(generation=stale, members=[], orders=wanted(1))) is heard
    assert heard.generation == (2, 3)


def test_a_go_counts_only_for_the_newest_view() -> None:
    """Law 4: before its View, for another one, or after a newer View, a Go is nothing."""
    assert fold(go((1, 1))).go is None
    assert fold(View(generation=(1, 2), members=[]), go((1, 1))).go is None
    assert fold(View(generation=(1, 2), members=[]), go((1, 2))).go == go((1, 2))
    assert fold(View(generation=(1, 2), members=[]), go((1, 2)), View(generation=(1, 3), members=[])).go is None


def test_a_repeated_go_or_view_changes_nothing() -> None:
    """Control says things again until they are heard; the second time is no news."""
    heard = fold(View(generation=(1, 1), members=[]), go((1, 1)))
    assert hear(heard, go((1, 1))) is heard
    assert hear(heard, View(generation=(1, 1), members=[])) is heard


def test_an_older_incarnation_of_control_is_not_obeyed() -> None:
    """Law 2: whoever heard of control's successor refuses the predecessor."""
    heard = fold(Welcome(sphere=4, incarnation=3))
    assert hear(heard, Tick(incarnation=2)) is heard
    assert hear(heard, Orders(incarnation=2, orders=wanted(1))) is heard
    assert hear(heard, View(generation=(2, 9), members=[])) is heard
    assert hear(heard, Welcome(sphere=5, incarnation=2)) is heard


def test_a_sphere_has_its_id_from_the_newest_welcome() -> None:
    """0 before; said again after a broken connection."""
    assert Heard().sphere == 0
    assert fold(Welcome(sphere=4, incarnation=1)).sphere == 4
    assert fold(Welcome(sphere=4, incarnation=1), Welcome(sphere=5, incarnation=2)).sphere == 5


def test_ticks_are_counted_but_not_those_of_a_control_that_has_a_successor() -> None:
    """While the count rises, control lives: a former one that was stopped, and woke, does not."""
    heard = fold(Tick(incarnation=1), Tick(incarnation=1), Tick(incarnation=2), Tick(incarnation=1))
    assert (heard.incarnation, heard.ticks) == (2, 3)


@given(st.lists(st.lists(st.integers(1, 8), max_size=4), max_size=12))
@settings(max_examples=200, deadline=None)
def test_orders_are_gapless_whatever_arrives(batches: list[list[int]]) -> None:
    """Law 3, against a set: after each message, n is the longest run 1..n that could be built by then."""
    heard, known = Heard(), 0
    for batch in batches:
        heard = hear(heard, Orders(incarnation=1, orders=wanted(*batch)))
        while known + 1 in batch:
            known += 1
        assert [order.number for order in heard.orders] == list(range(1, known + 1))
        assert heard.seen == known == heard.wanted.number
    assert all(order.learning_rate == float(order.number) for order in heard.orders)


def test_a_view_brings_the_orders_issued_before_it() -> None:
    """Also a View that is heard again, with orders that were missed."""
    heard = fold(View(generation=(1, 1), members=[], orders=wanted(1)))
    assert heard.seen == 1
    assert hear(heard, View(generation=(1, 1), members=[], orders=wanted(1, 2))).seen == 2


def test_the_first_end_and_the_first_refusal_are_kept() -> None:
    """What ends a sphere does not change afterwards."""
    heard = fold(End(status="failed", reason="a"), End(status="completed"), Refused(text="x"), Refused(text="y"))
    assert heard.end == End(status="failed", reason="a")
    assert heard.refused == Refused(text="x")
    assert hear(heard, StoreReply(request=1)) is heard


def test_who_is_thrown_out_knows_why() -> None:
    """The first word about it stands."""
    heard = fold(Expelled(text="silent"), Expelled(text="again"))
    assert heard.expelled == Expelled(text="silent")


def test_a_generation_ends_by_a_newer_view_or_by_the_end() -> None:
    """And by nothing else."""
    heard = fold(View(generation=(1, 2), members=[]))
    assert heard.ends((1, 1)) and not heard.ends((1, 2)) and not heard.ends((2, 1))
    assert hear(heard, End(status="completed")).ends((1, 2))
    assert not Heard().ends(NO_GENERATION)


@given(st.integers(0, 40), st.lists(st.integers(1, 99), min_size=1, max_size=9, unique=True), st.integers(0, 20))
@settings(max_examples=300, deadline=None)
def test_every_unit_is_dealt_once_and_evenly(units: int, members: list[int], attempt: int) -> None:
    """A partition of the indices into contiguous blocks whose sizes differ by one at most."""
    deal = share_out(units, members, attempt)
    assert list(deal) == members
    assert sorted(index for block in deal.values() for index in block) == list(range(units))
    assert max(map(len, deal.values())) - min(map(len, deal.values())) <= 1
    assert all(block == list(range(block[0], block[0] + len(block))) for block in deal.values() if block)


@given(st.integers(0, 40), st.lists(st.integers(1, 99), min_size=2, max_size=9, unique=True), st.integers(0, 20))
@settings(max_examples=300, deadline=None)
def test_a_repetition_gives_each_unit_to_another_sphere(units: int, members: list[int], attempt: int) -> None:
    """What one machine alone sees is not seen again by it."""
    before = {index: sphere for sphere, block in share_out(units, members, attempt).items() for index in block}
    after = {index: sphere for sphere, block in share_out(units, members, attempt + 1).items() for index in block}
    assert all(before[index] != after[index] for index in range(units))


def test_the_first_deal_is_contiguous_in_tree_order() -> None:
    """Longer blocks first."""
    assert share_out(8, [3, 1, 2], 0) == {3: [0, 1, 2], 1: [3, 4, 5], 2: [6, 7]}
    assert share_out(8, [3, 1, 2], 1) == {3: [6, 7], 1: [0, 1, 2], 2: [3, 4, 5]}
    assert share_out(3, [5], 7) == {5: [0, 1, 2]}


paces = st.dictionaries(st.integers(1, 6), st.floats(0.01, 10.0), max_size=6)


@given(st.integers(0, 40), st.lists(st.integers(1, 6), min_size=1, max_size=6, unique=True), paces, st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_a_deal_by_pace_is_a_partition_whatever_the_paces(
    units: int, members: list[int], paces: dict[int, float], attempt: int
) -> None:
    """Each index once; on a repetition with another sphere, unless there is but one."""
    found = deal(units, members, paces, attempt)
    assert list(found) == members
    assert sorted(index for block in found.values() for index in block) == list(range(units))
    before = {index: sphere for sphere, block in found.items() for index in block}
    again = deal(units, members, paces, attempt + 1)
    after = {index: sphere for sphere, block in again.items() for index in block}
    assert len(members) == 1 or all(before[index] != after[index] for index in range(units))


@given(st.integers(0, 7), st.lists(st.integers(1, 9), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_the_last_unit_is_done_as_early_as_any_deal_could_have_it(units: int, pace: list[int]) -> None:
    """Against all ways of dealing them out; whole numbers, so that equal is equal."""
    members = list(range(len(pace)))
    found = deal(units, members, {member: float(pace[member]) for member in members}, 0)
    makespan = max(len(found[member]) * pace[member] for member in members)
    best = min(
        max(counts[member] * pace[member] for member in members)
        for counts in itertools.product(range(units + 1), repeat=len(members))
        if sum(counts) == units
    )
    assert makespan == best


def test_a_sphere_without_a_pace_counts_as_the_median() -> None:
    """A newcomer is neither starved nor drowned; without any pace the shares are even."""
    assert deal(12, [1, 2, 3], {1: 1.0, 2: 2.0}, 0) == deal(12, [1, 2, 3], {1: 1.0, 2: 2.0, 3: 1.5}, 0)
    assert [len(block) for block in deal(12, [1, 2, 3], {1: 1.0, 2: 2.0, 3: 1.0}, 0).values()] == [5, 2, 5]
    assert deal(7, [3, 1, 2], {9: 4.0, 1: 0.0}, 0) == share_out(7, [3, 1, 2], 0)


def test_a_repetition_moves_every_index_on_by_one() -> None:
    """From whoever computed it, as the tail said."""
    assert deal_further_on([0, 2, 0, 1], [7, 5, 9]) == {7: [1], 5: [0, 2], 9: [3]}
    assert deal_further_on([0, 0], [7]) == {7: [0, 1]}


def test_a_collective_has_ten_times_the_longest_step() -> None:
    """And no less than half a minute; before the first step five minutes."""
    assert [operation_timeout_s(longest_s) for longest_s in (0.0, 0.01, 3.0, 60.0)] == [300.0, 30.0, 30.0, 600.0]


@pytest.mark.parametrize(("units", "members", "attempt"), [(-1, [1], 0), (1, [], 0), (1, [2, 2], 0), (1, [1], -1)])
def test_an_impossible_deal_is_refused(units: int, members: list[int], attempt: int) -> None:
    """Our own mistakes are heard of."""
    with pytest.raises(ValueError, match="no deal of"):
        share_out(units, members, attempt)


def test_the_table_of_phases_names_every_phase_and_lets_every_live_one_end() -> None:
    """A sphere can close from anywhere, and after a View can freeze from wherever it holds something."""
    assert set(MOVES) == set(Phase)
    for phase in set(Phase) - {Phase.CLOSED}:
        assert Phase.CLOSED in MOVES[phase]
        if phase not in (Phase.STARTING, Phase.FROZEN):
            assert Phase.FROZEN in MOVES[phase]
    assert MOVES[Phase.CLOSED] == frozenset()


@pytest.mark.parametrize("now", list(Phase))
@pytest.mark.parametrize("to", list(Phase))
def test_a_move_happens_if_the_table_has_it(now: Phase, to: Phase) -> None:
    """All 100 pairs: the table, staying, or a sentence with both names."""
    if to is now or to in MOVES[now]:
        assert move(now, to) is to
    else:
        with pytest.raises(StateError, match=f"{now.value} can't become {to.value}"):
            move(now, to)


def test_a_step_walks_through_the_table() -> None:
    """The way of a sphere from its start to its end, and what it may not skip."""
    phase = Phase.STARTING
    names = "admitted frozen building fetching computing reducing computing reducing paused computing reducing closing"
    for name in [*names.split(), "closed"]:
        phase = move(phase, Phase(name))
    for now, to in [("starting", "computing"), ("frozen", "computing"), ("computing", "closing"), ("closed", "frozen")]:
        with pytest.raises(StateError):
            move(Phase(now), Phase(to))
