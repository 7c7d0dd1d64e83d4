"""Leaving politely without sockets: who was asked to go owes nothing when it goes, and is not missed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from control.deal import staying
from control.decide import COME_S
from control.events import OrderGiven, SphereReleased
from control.protocol import LEFT, Ask, End, Go, How, Phase, SaveState, View, Wanted
from control.protocol import Position as At
from control.questions import health_of
from control.report import alarm_of, answer_order
from control.status import SphereHealth
from lightwatch.sync import Position
from spheres.shares import Shares
from tests.control.play import Play


def asked(*paths: str, leaver: str = "1") -> Play:
    """A run that has begun, one of whose spheres says in its beats that it is to leave."""
    play = Play(*paths).begin()
    play.beat(leaver, leaving=True)
    return play


def a_step(play: Play, version: int, *paths: str, in_force: int, leaver: str = "1") -> None:
    """All make a version whose tail agreed on the orders, and compute the next."""
    for path in paths:
        play.row(path, version, in_force=in_force)
    for path in paths:
        play.beat(path, version=version, leaving=path == leaver, in_force=in_force)


def ids_released(play: Play) -> list[int]:
    return [event.sphere for event in play.facts if isinstance(event, SphereReleased)]


def how_is(play: Play, path: str) -> SphereHealth:
    return next(each for each in health_of(play.state, play.now_s).spheres if each.path == path)


def test_a_wish_to_leave_becomes_one_order() -> None:
    """However often it is said; a client's word for a whole node is one order too."""
    play = asked("0", "1", "2")
    play.beat("1", leaving=True)
    assert [event.wanted.leaving for event in play.facts if isinstance(event, OrderGiven)] == [[2]]
    play = Play("a/0", "a/1", "b/0").begin()
    assert play.order("drain", text="a") == ""
    assert play.state.wanted.leaving == [1, 2] and len(play.state.orders) == 1
    assert play.order("drain", text="a/1") == "a/1 is leaving already"
    assert play.order("drain", text="b") == "" and play.state.wanted.leaving == [1, 2, 3]
    assert "no sphere is at 'c', nor below it" in play.order("drain", text="c")


def test_who_leaves_is_left_out_once_the_others_stand_beyond_its_work() -> None:
    """Not at the version at which the order is in force while the generation began there, for it has a part in that;
    after the next one a generation begins without it, and only then it is told to go."""
    play = asked("0", "1", "2")
    assert play.generation == play.state.running, "nobody is called before the order is in force"
    a_step(play, 1, "0", "1", "2", in_force=1)
    assert play.members == ["0", "2"] and set(play.told(View)) == {1, 2, 3}, "it hears that it is left out"
    assert not ids_released(play), "the generation without it does not run yet"
    for path in ("0", "2"):
        play.ready(path, version=1)
    assert set(play.told(Go)) == {1, 3}
    assert sum(map(len, play.begun.deal.values())) == 8 and ids_released(play) == [2]
    assert play.told(End)[2] == End(status=LEFT, reason="it was asked to leave, and the run goes on without it")
    play.lose("1")
    assert how_is(play, "1").state == "left" and not alarm_of(play.state, play.now_s)
    assert play.hello("1", former=101) == "", "its place is free"


def test_nobody_is_left_out_where_its_work_is_not_summed_yet() -> None:
    """The order is in force where the generation began: it computes there."""
    play = asked("0", "1", "2")
    for path in ("0", "1", "2"):
        play.beat(path, version=0, leaving=path == "1", in_force=1)
    assert play.state.orders[0].version == 0, "all say so"
    assert play.generation == play.state.running


def test_who_leaves_a_run_that_is_paused_goes_at_once() -> None:
    """Nobody computes anything, and no tail will ever come."""
    play = Play("0", "1", "2").begin()
    assert play.order("pause") == ""
    for path in ("0", "1", "2"):
        play.beat(path, Phase.PAUSED, in_force=1)
    assert play.order("drain", text="1") == ""
    for path in ("0", "1", "2"):
        play.beat(path, Phase.PAUSED, in_force=2)
    assert play.members == ["0", "2"]


def test_who_has_only_come_is_let_go_at_once_but_not_while_it_is_called() -> None:
    """A roll call of somebody who leaves meanwhile would begin with nobody there."""
    play = Play("0", "1")
    play.hello("0")
    play.beat("0", Phase.ADMITTED, leaving=True)
    assert ids_released(play) == [1]
    play = Play("0", "1").gather()
    play.beat("0", Phase.ADMITTED, leaving=True)
    assert play.told(View) and not ids_released(play)


def left_before_it_began(*paths: str, tree: str = "") -> Play:
    """All have come, and the first was let go before anybody was called."""
    play = Play(*paths)
    play.state = replace(play.state, tree=tree)
    for path in paths:
        play.hello(path)
    play.beat(paths[0], Phase.ADMITTED, leaving=True)
    play.lose(paths[0])
    assert ids_released(play) == [1]
    return play


def test_a_tree_does_not_wait_for_who_has_left_before_it_began() -> None:
    """Nobody may ever come there: it begins without, however late, and who comes there after all joins it."""
    play = left_before_it_began("0", "1", "2")
    play.keep_beating(2 * COME_S, "1", "2", phase=Phase.STARTING)
    assert play.state.ended is None
    play.prove("1")
    assert not play.members, "2 is still expected"
    play.prove("2")
    assert play.members == ["1", "2"]
    for path in ("1", "2"):
        play.ready(path)
    assert sorted(play.begun.deal) == [2, 3]
    assert play.hello("0", former=101) == ""


def test_a_successor_of_who_has_left_is_waited_for() -> None:
    """It has come, and is expected as anybody is."""
    play = left_before_it_began("0", "1")
    play.hello("0", former=101)
    play.prove("1")
    assert not play.members
    play.prove("0")
    assert play.members == ["0", "1"]


def test_a_run_that_waits_for_a_number_does_not_count_who_has_left() -> None:
    """Nor does it end over it, however long it has waited."""
    play = left_before_it_began("a/0", "b/0", tree="*:2")
    play.prove("b/0")
    play.keep_beating(2 * COME_S, "b/0", phase=Phase.ADMITTED)
    assert not play.members and play.state.ended is None
    assert play.hello("c/0") == "" and play.prove("c/0")
    assert play.members == ["b/0", "c/0"]


def test_a_client_hears_when_they_have_gone() -> None:
    """Not when the order is in force."""
    play = Play("0", "1", "2").begin()
    play.order("drain", request="r", text="1")
    ask = Ask(request="r", what="drain", text="1")
    a_step(play, 1, "0", "1", "2", in_force=1, leaver="")
    assert not answer_order(play.state, ask).text.startswith("1 has left")
    for path in ("0", "2"):
        play.ready(path, version=1)
    said = answer_order(play.state, ask)
    assert (said.ok, said.version, said.text) == (True, 1, "1 has left, at version 1")


def test_where_nobody_stays_a_checkpoint_is_written_first() -> None:
    """All go on until it is whole; then all are let go, and control waits, and says for whom."""
    play = Play("0", "1").begin()
    for path in ("0", "1"):
        play.beat(path, leaving=True)
    a_step(play, 1, "0", "1", in_force=1)
    assert play.state.wanted.saves == 1 and not ids_released(play)
    number = len(play.state.orders)
    a_step(play, 2, "0", "1", in_force=number)
    play.sent.clear()
    for state in (SaveState.WRITING, SaveState.WRITTEN):
        for path in ("0", "1"):
            play.save(path, state, version=2)
    assert not ids_released(play), "it is not whole"
    play.save("0", SaveState.SEALED, version=2)
    assert ids_released(play) == [1, 2]
    assert {end.status for end in play.told(End).values()} == {LEFT}
    for path in ("0", "1"):
        play.lose(path)
    play.wait(3600.0)
    assert play.state.ended is None
    assert "one that comes goes on from checkpoint step-2 [LW415]" in alarm_of(play.state, play.now_s)


def test_a_run_that_all_have_left_is_ended_by_stop() -> None:
    """Nobody is there who could agree on it."""
    play = Play("0", "1").begin()
    for path in ("0", "1"):
        play.happen(SphereReleased(sphere=play.state.sphere_at[path], at_s=0.0))
        play.lose(path)
    assert play.state.ended is None
    play.order("stop")
    assert (play.ended.status, play.ended.reason) == ("stopped", "stopped once all spheres had left")


def test_a_run_that_stops_lets_nobody_go_before() -> None:
    """They are about to leave all together, after a tail that needs each of them."""
    play = asked("0", "1", "2")
    play.order("stop")
    a_step(play, 1, "0", "1", "2", in_force=2)
    assert play.generation == play.state.running and not ids_released(play)


@pytest.mark.parametrize(("leaving", "workers"), [([2], [1, 3]), ([], [1, 2, 3]), ([3, 2, 1], [1, 2, 3])])
def test_who_leaves_is_dealt_nothing_while_others_stay(leaving: list[int], workers: list[int]) -> None:
    """But at the version where the generation began, which Go deals; and if all leave, all work."""
    assert staying([1, 2, 3], leaving) == workers
    go = Go(generation=(1, 1), position=At(), how=How.HERE, keep=False, deal={1: [0, 1], 2: [2, 3], 3: [4, 5, 6, 7]})
    wanted = Wanted(number=1, leaving=leaving)
    for version, has in ((0, {1, 2, 3}), (1, set(workers))):
        units = {me: Shares(go, [1, 2, 3]).of(me, Position(0, version, 0, 0), 8, 0, wanted) for me in (1, 2, 3)}
        assert {me for me, mine in units.items() if mine} == has
        assert sorted(unit for mine in units.values() for unit in mine) == list(range(8))
