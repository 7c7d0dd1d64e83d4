"""How a generation begins: who reaches the start how, and that each micro-batch is in the sum exactly once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from control.deal import deal
from control.events import GenerationBegun
from control.protocol import Go, How, Member, Position, Ready, Record, View
from control.rollcall import Readys, carry_on, donors
from tests.control.play import Play, called


@given(st.integers(0, 40), st.lists(st.integers(1, 99), min_size=1, max_size=12, unique=True))
def test_a_deal_is_a_partition_in_order_and_even(count: int, spheres: list[int]) -> None:
    """Every index once, contiguous, sizes differ by at most one, in tree order."""
    dealt = deal(range(count), spheres, {})
    assert list(dealt) == spheres
    assert [index for indices in dealt.values() for index in indices] == list(range(count))
    sizes = [len(indices) for indices in dealt.values()]
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
    """Then all are, at v0, where each stands: nobody fetches what it has built itself."""
    play = Play("0", "1", "2").gather()
    play.ready("0", holds_state=False)
    play.ready("2", holds_state=False)
    assert not play.told(Go)
    play.ready("1", holds_state=False)
    gos = play.told(Go)
    assert [gos[sphere].how for sphere in (1, 2, 3)] == [How.HERE] * 3
    assert all(go.deal == {1: [0, 1, 2], 2: [3, 4, 5], 3: [6, 7]} for go in gos.values())
    assert all(go.position == Position() and go.known == -1 for go in gos.values())


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


@pytest.mark.parametrize("digest", ["bbbb", None])
def test_unequal_weights_at_v0_end_the_run_with_the_sentence_that_says_to_seed(digest: str | None) -> None:
    """Founding needs equal digests on all; the odd sphere is named."""
    play = Play("0", "1").gather()
    play.ready("0", "aaaa")
    play.ready("1", digest)
    assert not play.told(Go)
    assert play.ended.status == "failed"
    assert "sphere 1 " in play.ended.reason and "aaaa" in play.ended.reason and (digest or "no d") in play.ended.reason
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


def holding(play: Play, sphere: int, version: int, **fields: object) -> Ready:
    """One answer to the roll call: by default a state at this version and nothing more."""
    position = fields.pop("position", Position(version=version))
    assert isinstance(position, Position)
    holds_state = bool(fields.pop("holds_state", True))
    return Ready(generation=play.generation, position=position, holds_state=holds_state, **fields)  # type: ignore[arg-type]


def carried(play: Play, readys: Readys) -> GenerationBegun:
    begun = carry_on(play.state, readys)
    assert begun is not None
    return begun


@given(st.lists(READY, min_size=3, max_size=3))
def test_a_later_generation_deals_exactly_what_the_kept_sums_lack(answers: list[dict[str, object]]) -> None:
    """Whatever the members hold: kept and dealt sets partition the micro-batches, and nobody below P stays there."""
    play = called(Play("0", "1", "2").begin())
    readys = {}
    for sphere, answer in zip((1, 2, 3), answers, strict=True):
        position = Position(version=int(str(answer["version"])), attempt=int(str(answer["attempt"])))
        record = Record(start=Position(version=position.version - 1), end=position, tail=b"")
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
        assert begun is None
        return
    assert begun is not None
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
        if how is How.FETCH:
            assert not begun.deal[sphere], "who fetches would only be waited for"
            assert begun.how[begun.donors[sphere]] is not How.FETCH or begun.donors[sphere] in begun.donors
        assert sphere not in begun.keep or there
    assert begun.in_force == max(ready.in_force for ready in holders.values() if ready.position == highest)


def test_a_sphere_that_was_not_in_the_running_generation_brings_no_state() -> None:
    """Only the line carries on: a holder from elsewhere follows it, however high it stands."""
    play = called(Play("0", "1").begin())
    play.state = replace(play.state, begun=replace(play.begun, deal={1: list(range(8))}))
    later = carried(play, {1: holding(play, 1, 3), 2: holding(play, 2, 9)})
    assert later.position == Position(version=3)
    assert later.how == {1: How.HERE, 2: How.FETCH}


def test_who_missed_the_tail_follows_the_record_with_its_own_sums() -> None:
    """And whoever has no complete sums fetches."""
    play = called(Play("0", "1", "2").begin())
    record = Record(start=Position(version=3), end=Position(version=4), tail=b"tail")
    later = carried(
        play,
        {
            1: holding(play, 1, 3, has_sums=True),
            2: holding(play, 2, 4, record=record),
            3: holding(play, 3, 3, done=[1, 2]),
        },
    )
    assert later.how == {1: How.RECORD, 2: How.HERE, 3: How.FETCH}
    assert later.record == record and later.donors == {3: 1}
    assert later.keep == [2], "what was done for the version before is over"


def test_who_was_left_out_obeys_what_the_line_had_agreed() -> None:
    """Its own first tail of that version had heard less; of the line nobody is left, but its rows are known."""
    play = Play("0", "1").begin()
    play.order("set_learning_rate", 0.5)
    play.row("0", 1, in_force=1)
    called(play)
    play.state = replace(play.state, begun=replace(play.begun, deal={7: []}))
    assert carried(play, {2: holding(play, 2, 1, in_force=0)}).in_force == 1
    assert carried(play, {2: holding(play, 2, 0, in_force=0)}).in_force == 0


def test_another_attempt_is_followed_without_sums() -> None:
    """There are no weights to make: only the exponents change."""
    play = called(Play("0", "1").begin())
    record = Record(start=Position(version=3), end=Position(version=3, attempt=1), tail=b"tail")
    later = carried(
        play, {1: holding(play, 1, 3), 2: holding(play, 2, 3, position=Position(version=3, attempt=1), record=record)}
    )
    assert later.how == {1: How.RECORD, 2: How.HERE}


def test_sums_of_another_attempt_are_not_kept() -> None:
    """They are in another scale."""
    play = called(Play("0", "1").begin())
    later = carried(
        play,
        {
            1: holding(play, 1, 3, done=[0, 1]),
            2: holding(play, 2, 3, position=Position(version=3, attempt=1), done=[6, 7]),
        },
    )
    assert later.keep == [2]
    assert sorted(index for indices in later.deal.values() for index in indices) == [0, 1, 2, 3, 4, 5]


def test_sums_that_overlap_are_kept_once() -> None:
    """In tree order, as long as no index is there twice."""
    play = called(Play("0", "1", "2").begin())
    later = carried(
        play,
        {
            1: holding(play, 1, 3, done=[0, 1]),
            2: holding(play, 2, 3, done=[1, 2]),
            3: holding(play, 3, 3, done=[2, 3]),
        },
    )
    assert later.keep == [1, 3]


def test_a_state_that_contradicts_an_agreed_version_is_not_carried_on() -> None:
    """Its holder fetches like one without a state."""
    play = Play("0", "1").begin()
    play.row("0", 1, digest="good")
    play.row("0", 2)
    called(play)
    later = carried(play, {1: holding(play, 1, 1, digest="bad"), 2: holding(play, 2, 1, digest="good")})
    assert later.how == {1: How.FETCH, 2: How.HERE} and later.digest == "good"


def test_without_a_holder_the_checkpoint_of_version_0_is_loaded_and_all_is_replayed() -> None:
    """By whoever can read it; up to what was known, the ledger says which orders were in force from when."""
    play = Play("0", "1").begin()
    play.order("set_learning_rate", 0.5)
    play.row("0", 1)
    play.row("0", 2, in_force=1)
    play.lose("0")
    play.lose("1")
    play.hello("0", former=100)
    play.prove("0")
    play.hello("1", former=101)
    play.ready("0", holds_state=False, has_v0=True)
    go = play.told(Go)[3]
    assert (go.how, go.position, go.known, go.in_force, go.in_force_at) == (How.LOAD, Position(), 2, 0, {2: 1})
    assert go.digest == "d0"


def test_with_no_holder_and_no_checkpoint_control_waits() -> None:
    """Somebody may put the file back; nothing is made up."""
    play = called(Play("0", "1").begin())
    play.ready("0", holds_state=False)
    play.ready("1", holds_state=False)
    assert not play.told(Go) and play.state.ended is None


@given(st.lists(st.sampled_from([How.HERE, How.RECORD, How.FETCH]), min_size=1, max_size=12))
def test_a_chain_of_donors_ends_at_a_holder(ways: list[How]) -> None:
    """Whoever fetches has a donor, if there is one that does not fetch; and a branch takes one state over its link."""
    play = Play(*[f"{'ab'[number % 2]}/{number}" for number in range(len(ways))])
    members = tuple(Member(sphere=number + 1, path=path) for number, path in enumerate(play.state.paths))
    how = {member.sphere: way for member, way in zip(members, ways, strict=True)}
    chosen = donors(replace(play.state, members=members), how)
    fetching = {sphere for sphere, way in how.items() if way is How.FETCH}
    assert set(chosen) == (fetching if len(fetching) < len(ways) else set())
    branch = {member.sphere: member.path.split("/")[0] for member in members}
    for sphere in chosen:
        walked = [sphere]
        while walked[-1] in chosen:
            walked.append(chosen[walked[-1]])
            assert len(walked) <= len(ways)
        assert walked[-1] not in fetching
    crossings = [sphere for sphere, donor in chosen.items() if branch[sphere] != branch[donor]]
    assert len(crossings) <= 1
