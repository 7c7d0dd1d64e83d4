"""How a generation begins: who reaches the start how, and that each micro-batch is in the sum exactly once."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from control.events import GenerationBegun, GenerationProposed
from control.membership import carry_on, deal_out, members_of
from control.protocol import Go, How, Position, Ready, Record, View
from tests.control.play import Play


@given(st.integers(0, 40), st.lists(st.integers(1, 99), min_size=1, max_size=12, unique=True))
def test_a_deal_is_a_partition_in_order_and_even(count: int, spheres: list[int]) -> None:
    """Every index once, contiguous, sizes differ by at most one, in tree order."""
    deal = deal_out(range(count), spheres)
    assert list(deal) == spheres
    assert [index for indices in deal.values() for index in indices] == list(range(count))
    sizes = [len(indices) for indices in deal.values()]
    assert max(sizes) - min(sizes) <= 1


def test_members_are_in_tree_order_whoever_came_first() -> None:
    """Ids are given in the order of coming; the View lists the members as the tree does."""
    play = Play("a/0", "a/1", "b/0")
    for path in ("b/0", "a/1", "a/0"):
        play.hello(path)
    for path in ("a/1", "b/0", "a/0"):
        assert not play.told(View)
        play.prove(path)
    views = play.told(View)
    assert sorted(views) == [1, 2, 3]
    assert [(member.path, member.sphere) for member in views[1].members] == [("a/0", 3), ("a/1", 2), ("b/0", 1)]
    assert views[1].generation == (1, 1)


def test_nobody_is_told_to_go_before_all_are_ready() -> None:
    """Then all are, at v0: the first in the tree stands there, the others fetch from it."""
    play = Play("0", "1", "2").gather()
    play.ready("0")
    play.ready("2")
    assert not play.told(Go)
    play.ready("1")
    gos = play.told(Go)
    assert [gos[sphere].how for sphere in (1, 2, 3)] == [How.HERE, How.FETCH, How.FETCH]
    assert [gos[sphere].donor for sphere in (1, 2, 3)] == [1, 1, 1]
    assert all(go.deal == {1: [0, 1, 2], 2: [3, 4, 5], 3: [6, 7]} for go in gos.values())
    assert all(go.position == Position() for go in gos.values())


def test_more_spheres_than_micro_batches_is_legal() -> None:
    """Some have nothing to do, and say so with an empty list."""
    play = Play("0", "1", "2")
    for path in ("0", "1", "2"):
        play.hello(path)
    for path in ("0", "1", "2"):
        play.prove(path, micro_batches=2)
    for path in ("0", "1", "2"):
        play.ready(path)
    assert play.told(Go)[3].deal == {1: [0], 2: [1], 3: []}


def test_unequal_weights_at_v0_end_the_run_with_the_sentence_that_says_to_seed() -> None:
    """Founding needs equal digests on all; the odd sphere is named."""
    play = Play("0", "1").gather()
    play.ready("0", "aaaa")
    play.ready("1", "bbbb")
    assert not play.told(Go)
    assert play.ended.status == "failed"
    assert "sphere 1 " in play.ended.reason and "aaaa" in play.ended.reason and "bbbb" in play.ended.reason
    assert "seed before building the model" in play.ended.reason


def test_orders_given_before_the_start_are_in_force_from_v0() -> None:
    """The View brings them to all, so Go can say that they hold."""
    play = Play("0", "1")
    play.order("set_learning_rate", 0.5)
    play.gather()
    assert [order.number for order in play.told(View)[1].orders] == [1]
    for path in ("0", "1"):
        play.ready(path)
    assert play.told(Go)[2].in_force == 1
    assert play.state.orders[0].version == 0


READY: st.SearchStrategy[dict[str, object]] = st.builds(
    dict,
    version=st.integers(4, 5),
    attempt=st.integers(0, 1),
    done=st.sets(st.integers(0, 7)),
    has_sums=st.booleans(),
    holds_state=st.booleans(),
    in_force=st.integers(0, 3),
    follows=st.booleans(),
)


@given(st.lists(READY, min_size=3, max_size=3))
def test_a_later_generation_deals_exactly_what_the_kept_sums_lack(answers: list[dict[str, object]]) -> None:
    """Whatever the members hold: kept and dealt sets partition the micro-batches, and nobody below P stays there."""
    play = Play("0", "1", "2").begin()
    members = members_of(play.state)
    assert members is not None
    play.happen(GenerationProposed(generation=(1, 2), members=members, at_s=0.0))
    readys = {}
    for sphere, answer in zip((1, 2, 3), answers, strict=True):
        position = Position(version=int(str(answer["version"])), attempt=int(str(answer["attempt"])))
        record = Record(
            start=Position(version=position.version - 1),
            end=position,
            weight=1,
            exponents=[],
            learning_rate=0.1,
            in_force=0,
        )
        done = answer["done"]
        assert isinstance(done, set)
        readys[sphere] = Ready(
            generation=(1, 2),
            position=position,
            holds_state=bool(answer["holds_state"]),
            done=sorted(done),
            has_sums=bool(answer["has_sums"]),
            in_force=int(str(answer["in_force"])),
            record=record if answer["follows"] else None,
        )
    begun = carry_on(play.state, readys)
    holders = {sphere: ready for sphere, ready in readys.items() if ready.holds_state}
    if not holders:
        assert begun == "no sphere of the last running generation holds a state: nothing to carry on from [LW406]"
        return
    assert isinstance(begun, GenerationBegun)
    highest = max(ready.position for ready in holders.values())
    assert begun.position == highest
    kept = [index for sphere in begun.keep for index in readys[sphere].done]
    dealt = [index for indices in begun.deal.values() for index in indices]
    assert sorted(kept + dealt) == list(range(8))
    for sphere, how in begun.how.items():
        ready = readys[sphere]
        there = ready.holds_state and ready.position == highest
        assert (how is How.HERE) == there
        if how is How.RECORD:
            assert begun.record is not None and begun.record.start == ready.position
            assert ready.has_sums or begun.record.start.version == begun.record.end.version
        assert sphere not in begun.keep or there
    assert begun.how[begun.donor] is How.HERE
    assert begun.in_force == max(ready.in_force for ready in holders.values() if ready.position == highest)


def test_a_sphere_that_was_not_in_the_running_generation_brings_no_state() -> None:
    """Only the line carries on: a holder from elsewhere follows it, however high it stands."""
    play = Play("0", "1").begin()
    begun = play.state.begun
    assert begun is not None
    play.state = replace(play.state, begun=replace(begun, deal={1: list(range(8))}))
    readys = {
        1: Ready(generation=(1, 2), position=Position(version=3), holds_state=True),
        2: Ready(generation=(1, 2), position=Position(version=9), holds_state=True),
    }
    later = carry_on(play.state, readys)
    assert isinstance(later, GenerationBegun)
    assert later.position == Position(version=3)
    assert later.how == {1: How.HERE, 2: How.FETCH}
