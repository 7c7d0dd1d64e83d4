"""When a generation begins and with whom, whose lineage goes on, and what a control that starts anew does."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from control.decide import COME_S
from control.events import Adopted
from control.generations import TAKEOVER_S
from control.protocol import Go, Hello, How, Member, Memory, Phase, Position, View, Wanted
from tests.control.play import Play, called


def carried_on(play: Play, *paths: str, version: int = 0) -> None:
    """All of these answer the roll call with a state."""
    for path in paths:
        play.ready(path, version=version)
    for path in paths:
        play.beat(path, version=version)


def with_a_successor() -> Play:
    """Sphere 0 has gone on alone, and where 1 was, another has come and is proven."""
    play = Play("0", "1").begin()
    play.lose("1")
    play.wait(0.6)
    carried_on(play, "0")
    play.hello("1", former=101)
    play.prove("1")
    return play


def test_a_successor_at_a_path_joins_in_the_next_generation() -> None:
    """It is another sphere; it holds nothing and fetches from who does."""
    play = with_a_successor()
    play.keep_beating(1.1, "0", "1")
    assert play.members == ["0", "1"] and [member.sphere for member in play.state.members] == [1, 3]
    play.ready("0")
    play.ready("1", holds_state=False)
    go = play.told(Go)[3]
    assert (go.how, go.donor) == (How.FETCH, 1)


def test_those_who_come_within_a_fifth_of_silence_s_cost_one_generation() -> None:
    """Ten that come at once are let in together."""
    play = Play("a/0", "a/1", silence_s=5.0).begin()
    for number in range(2, 12):
        play.hello(f"a/{number}")
        play.prove(f"a/{number}")
        play.wait(0.05)
    assert play.generation == (1, 1)
    play.wait(1.0)
    assert play.generation == (1, 2) and len(play.members) == 12


def test_a_broken_collective_without_a_loss_begins_anew_after_a_moment() -> None:
    """In which somebody may yet turn out to be lost, or out of reach."""
    play = Play("0", "1", silence_s=2.0).begin()
    play.beat("0", Phase.FROZEN, failed_in=play.generation)
    play.wait(1.1)
    assert play.generation == (1, 1)
    play.wait(0.2)
    assert play.generation == (1, 2) and play.members == ["0", "1"]


def test_a_failure_that_is_taken_back_is_forgotten() -> None:
    """It is a level: a heartbeat without it means that it is over."""
    play = Play("0", "1", silence_s=2.0).begin()
    play.beat("0", Phase.FROZEN, failed_in=play.generation)
    play.keep_beating(5.0, "0", "1")
    assert play.generation == (1, 1)


def test_nothing_begins_anew_once_a_member_has_closed_but_for_a_loss() -> None:
    """A joiner would only hold up the end."""
    play = Play("0", "1").begin()
    play.close("0")
    play.hello("2")
    play.prove("2")
    play.keep_beating(5.0, "0", "1", "2")
    assert play.generation == (1, 1)


def test_who_was_left_out_hears_that_its_generation_is_over() -> None:
    """It comes back as it was, with an old generation: the View of the newer one freezes it."""
    play = Play("0", "1").begin()
    play.lose("1")
    play.wait(0.6)
    carried_on(play, "0")
    play.sent.clear()
    play.hello("1", pid=101, sphere=2)
    play.beat("1", generation=(1, 1))
    assert play.told(View)[2].generation == (1, 2)


def test_only_the_running_generation_may_carry_on_while_one_of_it_may_live() -> None:
    """Whoever else is here waits: or two trees would train under one ledger."""
    play = Play("0", "1").begin()
    play.lose("1")
    play.wait(0.6)
    carried_on(play, "0")
    play.hello("1", pid=101, sphere=2)
    play.beat("1", Phase.FROZEN, generation=(1, 2))
    play.lose("0")
    play.keep_beating(TAKEOVER_S - 0.2, "1")
    assert play.generation == (1, 2)
    play.keep_beating(0.6, "1")
    assert play.generation == (1, 3) and play.members == ["1"]


def test_a_member_that_may_hold_the_newest_state_is_waited_for() -> None:
    """Another member of the running generation is here, but had not yet fetched: it can begin nothing."""
    play = Play("0", "1").begin()
    play.row("0", 5)
    play.lose("0")
    play.wait(0.6)
    assert play.members == ["1"]
    play.sent.clear()
    play.ready("1", holds_state=False, has_v0=True)
    play.keep_beating(4.0, "1", phase=Phase.FROZEN)
    assert not play.told(Go)
    play.hello("0", pid=100, sphere=1)
    play.beat("0", Phase.FROZEN, generation=(1, 1), version=5)
    play.keep_beating(1.1, "0", "1", phase=Phase.FROZEN)
    assert play.members == ["0", "1"]
    play.ready("0", version=5)
    play.ready("1", holds_state=False, has_v0=True)
    assert {sphere: go.how for sphere, go in play.told(Go).items()} == {1: How.HERE, 2: How.FETCH}


def test_a_roll_call_that_nothing_began_from_is_repeated() -> None:
    """The file of version 0 may have been put back; and nobody is left out for asking again."""
    play = called(Play("0", "1", silence_s=1.0).begin())
    for _ in range(5):
        generation = play.generation
        for path in ("0", "1"):
            play.ready(path, holds_state=False)
        play.keep_beating(10.2, "0", "1", phase=Phase.FROZEN)
        assert play.generation > generation and play.members == ["0", "1"]
    for path in ("0", "1"):
        play.ready(path, holds_state=False, has_v0=True)
    assert play.told(Go)[1].how is How.LOAD


def test_a_member_that_is_known_dead_is_not_waited_for() -> None:
    """Its supervisor says so by who it starts next: at once, no taking over."""
    play = with_a_successor()
    play.lose("0")
    play.keep_beating(1.0, "1")
    assert play.generation == (1, 2)
    play.hello("0", former=100)
    assert play.generation == (1, 3) and play.members == ["1"]


def test_a_whole_tree_that_falls_silent_at_once_is_not_thrown_out() -> None:
    """That is control cut off, or stopped: it does nothing, and goes on when they are back."""
    play = Play("0", "1").begin()
    play.lose("0")
    play.lose("1")
    play.wait(30.0)
    assert play.generation == (1, 1) and play.state.ended is None
    for path, sphere in (("0", 1), ("1", 2)):
        play.hello(path, pid=99 + sphere, sphere=sphere)
        play.beat(path)
    play.wait(1.0)
    assert play.generation == (1, 1)


def restarted(play: Play, silence_s: float = 5.0) -> Play:
    """The same run under a control that started anew: everybody is away, and may come back."""
    away = {
        sphere: replace(seat, connected=False, beat=None, ready=None, lost_s=play.now_s)
        for sphere, seat in play.state.seats.items()
    }
    seats = play.state.seats.having(away)
    incarnation, adopting_s = play.state.incarnation + 1, play.now_s + silence_s
    play.state = replace(play.state, seats=seats, incarnation=incarnation, adopting_s=adopting_s)
    play.sent.clear()
    return play


def test_a_control_that_starts_anew_adopts_what_runs_on() -> None:
    """No View: the tree never noticed."""
    play = restarted(Play("0", "1").begin())
    play.hello("0", pid=100, sphere=1)
    play.beat("0")
    assert not [event for event in play.facts if isinstance(event, Adopted)]
    play.hello("1", pid=101, sphere=2)
    play.beat("1")
    assert [event.whole for event in play.facts if isinstance(event, Adopted)] == [True]
    play.keep_beating(3.0, "0", "1")
    assert (play.generation == (1, 1) and not play.told(View)) or play.told(View)[1].generation == (1, 1)


def test_a_control_that_starts_anew_waits_silence_s_for_who_is_missing() -> None:
    """Then it calls those who are here, in a generation of its own incarnation."""
    play = restarted(Play("0", "1").begin())
    play.hello("0", pid=100, sphere=1)
    play.keep_beating(4.9, "0")
    assert play.generation == (1, 1)
    play.keep_beating(0.6, "0")
    assert play.generation == (2, 1) and play.members == ["0"]


def test_a_broken_generation_is_not_adopted() -> None:
    """A failure is a level: said to the restarted control too."""
    play = restarted(Play("0", "1").begin())
    for path, sphere in (("0", 1), ("1", 2)):
        play.hello(path, pid=99 + sphere, sphere=sphere)
        play.beat(path, Phase.FROZEN, generation=(1, 1), failed_in=(1, 1))
    play.keep_beating(9.0, "0", "1", phase=Phase.FROZEN, failed_in=(1, 1), generation=(1, 1))
    assert play.generation == (2, 1) and play.members == ["0", "1"]


@pytest.mark.parametrize("founding", [True, False])
def test_a_roll_call_of_a_control_that_died_over_it_is_called_anew(founding: bool) -> None:
    """Whoever has heard of the new one takes no View of the old one: nobody would answer, for ever."""
    play = Play("0", "1", "2", silence_s=1.0)
    if founding:
        for path in play.state.paths:
            play.hello(path)
            play.prove(path)
    else:
        play.begin()
        play.lose("2")
        play.wait(0.6)
    assert play.generation == (1, 1 if founding else 2) and play.generation != play.state.running
    play = restarted(play, 1.0)
    for path, sphere in (("0", 1), ("1", 2), ("2", 3))[: 3 if founding else 2]:
        play.hello(path, pid=99 + sphere, sphere=sphere)
        play.beat(path, Phase.FROZEN, generation=play.state.running, failed_in=play.state.running)
    play.keep_beating(3.0, "0", "1", phase=Phase.FROZEN, generation=play.state.running, failed_in=play.state.running)
    assert play.generation == (2, 1) and play.members == ["0", "1", "2"][: 3 if founding else 2]
    assert play.told(View).keys() == ({1, 2, 3} if founding else {1, 2})


def remembering() -> Play:
    """A control that was given no ledger (--adopt)."""
    play = Play("0", "1")
    play.state = replace(play.state, remembers=True, adopting_s=5.0)
    return play


def told_by(path: str, sphere: int, number: int, rates: list[float]) -> Hello:
    """What a sphere says that was last in generation (4, number), of itself and sphere 3, and heard these orders."""
    orders = [Wanted(number=place, learning_rate=rate) for place, rate in enumerate(rates, 1)]
    members = [Member(sphere=sphere, path=path), Member(sphere=3, path="1")]
    memory = Memory(generation=(4, number), members=members, position=Position(version=9), orders=orders)
    return Hello(run_id="run", path=path, pid=100, host="here", sphere=sphere, incarnation=4, memory=memory)


def test_a_control_without_a_ledger_takes_up_what_spheres_know_if_it_may() -> None:
    """Orders, the running generation, and an incarnation above every one that was heard of; and not the next: who had
    heard of a later control may have died with it, and what that one called would be called again with other members.
    """
    play = remembering()
    assert play.knock(told_by("0", 8, 7, [0.5])) == ""
    assert play.state.incarnation > 5 and play.state.running == (4, 7)
    assert play.state.sphere_at["0"] == 8 and play.state.next_sphere > 9
    assert play.knock(told_by("2", 9, 6, [0.5, 0.25])) == "", (
        "left out before, and yet the newest id, and an order more"
    )
    assert play.state.running == (4, 7) and play.state.next_sphere > 10
    assert [order.wanted.learning_rate for order in play.state.orders] == [0.5, 0.25]


def test_a_control_without_a_ledger_and_without_leave_ends_itself() -> None:
    """It would begin the run a second time, beside a tree that is training."""
    play = remembering()
    play.state = replace(play.state, remembers=False)
    assert "number 4 of this run, this one is number 1: it acts no more [LW523]" in play.knock(told_by("0", 8, 7, []))
    assert not play.state.seats


def test_a_control_that_adopts_takes_no_newcomer_before_it_knows_the_run() -> None:
    """So it never founds, and gives nobody a number that is somebody's."""
    play = remembering()
    assert play.hello("1") == "not yet" and not play.state.seats
    play.wait(60.0)
    assert not play.told(View)
    assert play.knock(told_by("0", 8, 7, [])) == ""
    assert play.hello("1") == "" and play.state.sphere_at["1"] > 8


def test_a_control_that_adopts_ends_when_nobody_comes_who_knows_the_run() -> None:
    """The run may have been over: whoever had heard so is gone. It says what to look at, and begins nothing."""
    play = remembering()
    while play.now_s < COME_S:
        assert play.hello("1") == "not yet"
        play.wait(5.0)
    assert "the logs of its spheres say whether it was over" in play.ended.reason and not play.told(View)


def test_a_control_that_adopts_gives_no_number_that_it_has_not_heard_of_yet() -> None:
    """The first that it hears may have missed a generation in which others came."""
    play = remembering()
    play.knock(told_by("0", 1, 2, []))
    assert play.hello("1") == ""
    members = [Member(sphere=number, path=path) for path, number in (("0", 1), ("1", 3), ("2", 4))]
    memory = Memory(generation=(4, 3), members=members, position=Position(version=9), orders=[])
    later = Hello(run_id="run", path="2", pid=102, host="here", sphere=4, incarnation=4, memory=memory)
    assert play.knock(later) == ""
    assert play.state.sphere_at["2"] == 4 and len(set(play.state.sphere_at.values())) == 3


def test_a_control_that_adopts_tells_nobody_to_go_into_what_it_only_remembers() -> None:
    """What its Go said is lost with the ledger: whoever was to fetch there has no state to go on from."""
    play = remembering()
    play.knock(told_by("0", 8, 7, []))
    newcomer = Hello(run_id="run", path="1", pid=101, host="here", sphere=3, incarnation=4)
    assert play.knock(newcomer) == ""
    play.prove("0")
    play.prove("1")
    play.settle()
    assert not play.told(Go)


def test_a_control_that_adopts_takes_no_order_before_it_knows_the_run() -> None:
    """A stop would end a run that trains as one that never began; any order could have another's number."""
    play = remembering()
    assert "[LW515]" in play.order("stop") and "[LW515]" in play.order("set_learning_rate", 0.1)
    assert play.knock(told_by("0", 8, 7, [0.5])) == ""
    assert "[LW515]" in play.order("stop") and play.state.ended is None, "others may know of more orders"
    play.wait(6.0)
    assert play.order("stop") == "" and play.state.wanted.number == 2


@pytest.mark.parametrize("rates", [[0.25], [0.5, 0.25]])
def test_who_knows_other_orders_than_control_has_to_begin_anew(rates: list[float]) -> None:
    """A control that adopted the run without hearing of them gave their numbers to others: it would obey its own."""
    play = remembering()
    assert play.knock(told_by("0", 8, 7, [0.5])) == ""
    play.prove("0")
    play.wait(6.0)
    assert play.state.adopting_s is None
    assert "it knows orders that this control never gave" in play.knock(told_by("1", 3, 6, rates))
    assert play.knock(told_by("1", 3, 6, [0.5])) == "" and play.knock(told_by("0", 8, 7, [])) == ""


def test_an_order_that_was_remembered_is_in_force_from_where_the_rows_say() -> None:
    """Not from version 0: a replay would obey it too early. And a run that was paused is paused."""
    play = remembering()
    play.knock(told_by("0", 8, 7, [0.5, 0.25]))
    play.prove("0")
    for version, in_force in ((1, 0), (2, 1), (3, 1)):
        play.row("0", version, in_force=in_force)
    assert [order.version for order in play.state.orders] == [2, None]
